package vocab

import (
	"fmt"
	"strings"

	"conform/goref/internal/gguf"
)

// mark stands for a space inside pieces.
const mark = "\u2581"

// sentencePiece merges the code points of a text, the piece of the highest score first.
type sentencePiece struct {
	pieces  []string
	prefix  string // what is put before every text: the mark, or nothing
	scores  []float32
	normal  map[string]int // the pieces that merging may produce
	bytes   [256]int       // the token of each byte, or -1
	unknown int
}

func readSentencePiece(metadata gguf.Metadata) (*Vocabulary, error) {
	only := map[string]any{"add_eos_token": false, "remove_extra_whitespaces": false, "pre": "default"}
	if err := refuse(metadata, only, "precompiled_charsmap", "merges"); err != nil {
		return nil, err
	}
	pieces, kinds, err := readPieces(metadata)
	if err != nil {
		return nil, err
	}
	s := &sentencePiece{pieces: pieces, normal: map[string]int{}, prefix: mark}
	if metadata.Has(prefix + "add_space_prefix") {
		wanted, err := metadata.Bool(prefix + "add_space_prefix")
		if err != nil {
			return nil, err
		}
		if !wanted {
			s.prefix = ""
		}
	}
	for i := range s.bytes {
		s.bytes[i] = -1
	}
	if s.scores, err = metadata.Floats(prefix + "scores"); err != nil {
		return nil, err
	}
	if len(s.scores) != len(pieces) {
		return nil, fmt.Errorf("%d tokens, but %d scores", len(pieces), len(s.scores))
	}
	if s.unknown, err = readID(metadata, "unknown_token_id", len(pieces)); err != nil {
		return nil, err
	}
	if _, err = readID(metadata, "bos_token_id", len(pieces)); err != nil {
		return nil, err
	}
	bos, err := readBOS(metadata, len(pieces))
	if err != nil {
		return nil, err
	}
	return &Vocabulary{s.texts(), bos, s}, s.index(kinds)
}

// texts is what the pieces print: only the word boundary mark becomes a space.
func (s *sentencePiece) texts() []string {
	texts := make([]string, len(s.pieces))
	for token, piece := range s.pieces {
		texts[token] = strings.ReplaceAll(piece, mark, " ")
	}
	return texts
}

func (s *sentencePiece) index(kinds []int32) error {
	for token, piece := range s.pieces {
		if score := s.scores[token]; score-score != 0 {
			return fmt.Errorf("the score of token %d is %v", token, score)
		}
		switch kinds[token] {
		case kindUnknown, kindControl:
		case kindNormal:
			if other, twice := s.normal[piece]; twice || piece == "" {
				return fmt.Errorf("the piece %q of token %d is empty or also that of token %d", piece, token, other)
			}
			s.normal[piece] = token
		case kindByte:
			value, err := byteOf(piece)
			if err != nil || s.bytes[value] >= 0 {
				return fmt.Errorf("the byte piece %q of token %d is malformed or occurs twice", piece, token)
			}
			s.bytes[value] = token
		case kindUnused:
			// Other unused pieces take part in merging and are taken apart again.
			if piece != fmt.Sprintf("[PAD%d]", token) {
				return fmt.Errorf("token %d (%q) is unused but not [PAD%d], which is not supported", token, piece, token)
			}
		case kindUserDefined:
			return fmt.Errorf("token %d (%q) is user-defined, which is not supported", token, piece)
		default:
			return fmt.Errorf("token %d (%q) has the unknown type %d", token, piece, kinds[token])
		}
	}
	return nil
}

// byteOf reads <0xNN>.
func byteOf(piece string) (value byte, err error) {
	_, err = fmt.Sscanf(piece, "<0x%02X>", &value)
	if err == nil && piece != fmt.Sprintf("<0x%02X>", value) {
		err = fmt.Errorf("not canonical")
	}
	return value, err
}

// encode begins at the code points; each byte of invalid UTF-8 is U+FFFD.
func (s *sentencePiece) encode(text string) []int {
	var points []string
	for _, r := range s.prefix + strings.ReplaceAll(text, " ", mark) {
		points = append(points, string(r))
	}
	var tokens []int
	for _, part := range merge(points, s.score) {
		tokens = s.emit(tokens, part)
	}
	return tokens
}

// score is that of the union of two neighbours, if it is a piece.
func (s *sentencePiece) score(left, right string) (float32, bool) {
	token, found := s.normal[left+right]
	if !found {
		return 0, false
	}
	return s.scores[token], true
}

// emit appends the token of a piece; what is not a piece becomes its bytes, or else the unknown token.
func (s *sentencePiece) emit(tokens []int, text string) []int {
	if token, found := s.normal[text]; found {
		return append(tokens, token)
	}
	for _, b := range []byte(text) {
		if s.bytes[b] < 0 {
			return append(tokens, s.unknown)
		}
	}
	for _, b := range []byte(text) {
		tokens = append(tokens, s.bytes[b])
	}
	return tokens
}
