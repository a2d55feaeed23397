// Package vocab turns text into tokens as SentencePiece BPE with byte fallback and identity normalisation does.
package vocab

import (
	"fmt"

	"conform/goref/internal/gguf"
)

// Kinds of pieces, as GGUF numbers them.
const (
	kindNormal      = 1
	kindUnknown     = 2
	kindControl     = 3
	kindUserDefined = 4
	kindUnused      = 5
	kindByte        = 6
)

const prefix = "tokenizer.ggml."

// Vocabulary is the tokenizer of a file.
type Vocabulary struct {
	pieces  []string
	scores  []float32
	normal  map[string]int // the pieces that merging may produce
	bytes   [256]int       // the token of each byte, or -1
	unknown int
	bos     int
	addBOS  bool
}

// Size is the number of pieces.
func (v *Vocabulary) Size() int { return len(v.pieces) }

// Piece returns the text of a token; only the word boundary mark becomes a space.
func (v *Vocabulary) Piece(token int) string { return unmark(v.pieces[token]) }

// Read fails on every key that is missing and on every setting that this tokenizer cannot honour.
func Read(metadata gguf.Metadata) (*Vocabulary, error) {
	if kind, err := metadata.Text(prefix + "model"); err != nil {
		return nil, err
	} else if kind != "llama" {
		return nil, fmt.Errorf("key %smodel = %q is not supported, expected llama", prefix, kind)
	}
	if err := refuseSettings(metadata); err != nil {
		return nil, err
	}
	v := &Vocabulary{normal: map[string]int{}}
	for i := range v.bytes {
		v.bytes[i] = -1
	}
	kinds, err := v.readPieces(metadata)
	if err != nil {
		return nil, err
	}
	if err := v.readIDs(metadata); err != nil {
		return nil, err
	}
	return v, v.index(kinds)
}

// Settings that change the tokens in a way that this tokenizer does not implement.
func refuseSettings(metadata gguf.Metadata) error {
	for key, only := range map[string]any{
		"add_space_prefix": true, "add_eos_token": false, "remove_extra_whitespaces": false, "pre": "default",
	} {
		if value, found := metadata[prefix+key]; found && value != only {
			return fmt.Errorf("key %s%s = %v is not supported, expected %v", prefix, key, value, only)
		}
	}
	for _, key := range []string{"precompiled_charsmap", "merges"} {
		if metadata.Has(prefix + key) {
			return fmt.Errorf("key %s%s is not supported", prefix, key)
		}
	}
	return nil
}

func (v *Vocabulary) readPieces(metadata gguf.Metadata) (kinds []int32, err error) {
	if v.pieces, err = metadata.Texts(prefix + "tokens"); err != nil {
		return nil, err
	}
	if v.scores, err = metadata.Floats(prefix + "scores"); err != nil {
		return nil, err
	}
	if kinds, err = metadata.Ints(prefix + "token_type"); err != nil {
		return nil, err
	}
	if len(v.scores) != len(v.pieces) || len(kinds) != len(v.pieces) {
		return nil, fmt.Errorf("%d tokens, but %d scores and %d token types", len(v.pieces), len(v.scores), len(kinds))
	}
	return kinds, nil
}

func (v *Vocabulary) readIDs(metadata gguf.Metadata) (err error) {
	for key, target := range map[string]*int{"bos_token_id": &v.bos, "unknown_token_id": &v.unknown} {
		if *target, err = metadata.Count(prefix + key); err != nil {
			return err
		}
		if *target >= len(v.pieces) {
			return fmt.Errorf("key %s%s = %d, but there are %d tokens", prefix, key, *target, len(v.pieces))
		}
	}
	v.addBOS, err = metadata.Bool(prefix + "add_bos_token")
	return err
}

func (v *Vocabulary) index(kinds []int32) error {
	for token, piece := range v.pieces {
		if score := v.scores[token]; score-score != 0 {
			return fmt.Errorf("the score of token %d is %v", token, score)
		}
		switch kinds[token] {
		case kindUnknown, kindControl:
		case kindNormal:
			if other, twice := v.normal[piece]; twice || piece == "" {
				return fmt.Errorf("the piece %q of token %d is empty or also that of token %d", piece, token, other)
			}
			v.normal[piece] = token
		case kindByte:
			value, err := byteOf(piece)
			if err != nil || v.bytes[value] >= 0 {
				return fmt.Errorf("the byte piece %q of token %d is malformed or occurs twice", piece, token)
			}
			v.bytes[value] = token
		case kindUserDefined, kindUnused:
			return fmt.Errorf("token %d (%q) is user-defined or unused, which is not supported", token, piece)
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
