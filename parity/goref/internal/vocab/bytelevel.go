package vocab

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"conform/goref/internal/gguf"
)

// byteLevel merges the bytes of each word of a text, the earliest merge first.
type byteLevel struct {
	split        splitter
	ignoreMerges bool                  // a word that is a piece is that piece, whatever merging would give
	normal       map[string]int        // the pieces that merging may produce, as bytes
	ranks        map[[2]string]float32 // the merges, in bytes; the first has rank 0
	marked       []string              // the user-defined pieces, which no word reaches across, the longest first
	markedTokens map[string]int
}

func readByteLevel(metadata gguf.Metadata) (*Vocabulary, error) {
	only := map[string]any{"add_space_prefix": false, "add_eos_token": false, "remove_extra_whitespaces": false}
	if err := refuse(metadata, only, "precompiled_charsmap"); err != nil {
		return nil, err
	}
	pre, err := metadata.Text(prefix + "pre")
	if err != nil {
		return nil, err
	}
	if name, found := aliases[pre]; found {
		pre = name
	}
	split, known := splitters[pre]
	if !known {
		names := strings.Join(slices.Sorted(maps.Keys(splitters)), ", ")
		return nil, fmt.Errorf("key %spre = %q is not supported, expected one of %s", prefix, pre, names)
	}
	pieces, kinds, err := readPieces(metadata)
	if err != nil {
		return nil, err
	}
	bos, err := readBOS(metadata, len(pieces))
	if err != nil {
		return nil, err
	}
	b := &byteLevel{split: split, ignoreMerges: pre == "llama-bpe", normal: map[string]int{}, markedTokens: map[string]int{}}
	texts, err := b.index(pieces, kinds)
	if err != nil {
		return nil, err
	}
	merges, err := metadata.Texts(prefix + "merges")
	if err != nil {
		return nil, err
	}
	return &Vocabulary{texts, bos, b}, b.rank(merges)
}

// index returns what the tokens print: the bytes of a normal piece, any other as it is written.
func (b *byteLevel) index(pieces []string, kinds []int32) ([]string, error) {
	texts := slices.Clone(pieces)
	for token, piece := range pieces {
		switch kinds[token] {
		case kindControl, kindUnused:
		case kindUserDefined:
			if other, twice := b.markedTokens[piece]; twice || piece == "" {
				return nil, fmt.Errorf("the piece %q of token %d is empty or also that of token %d", piece, token, other)
			}
			b.markedTokens[piece] = token
		case kindNormal:
			text, ok := bytesOf(piece)
			if !ok {
				return nil, fmt.Errorf("the piece %q of token %d is not written in the alphabet of bytes", piece, token)
			}
			if other, twice := b.normal[text]; twice || text == "" {
				return nil, fmt.Errorf("the piece %q of token %d is empty or also that of token %d", piece, token, other)
			}
			texts[token], b.normal[text] = text, token
		default:
			return nil, fmt.Errorf("token %d (%q) has the type %d, which is not supported", token, piece, kinds[token])
		}
	}
	b.marked = slices.Collect(maps.Keys(b.markedTokens))
	slices.SortFunc(b.marked, func(x, y string) int { return len(y) - len(x) })
	return texts, nil
}

// rank reads merges such as "Ġ t", the first of which is made first.
func (b *byteLevel) rank(merges []string) error {
	b.ranks = make(map[[2]string]float32, len(merges))
	// Ranks are held as float32, in which whole numbers are exact up to 2^24.
	if len(merges) > 1<<24 {
		return fmt.Errorf("%d merges, expected at most %d", len(merges), 1<<24)
	}
	for rank, merge := range merges {
		left, right, found := strings.Cut(merge, " ")
		var pair [2]string
		var isLeft, isRight bool
		pair[0], isLeft = bytesOf(left)
		pair[1], isRight = bytesOf(right)
		_, leftKnown := b.normal[pair[0]]
		_, rightKnown := b.normal[pair[1]]
		_, unionKnown := b.normal[pair[0]+pair[1]]
		if !found || !isLeft || !isRight || !leftKnown || !rightKnown || !unionKnown {
			return fmt.Errorf("merge %d (%q) does not join two normal pieces to a third", rank, merge)
		}
		if _, twice := b.ranks[pair]; twice {
			return fmt.Errorf("merge %d (%q) occurs twice", rank, merge)
		}
		b.ranks[pair] = float32(rank)
	}
	return nil
}

// encode cuts user-defined pieces out, what lies between them into words, and words into pieces.
func (b *byteLevel) encode(text string) []int {
	var tokens []int
	text = string([]rune(text)) // each byte of invalid UTF-8 is U+FFFD
	start := 0
	for at := 0; at < len(text); {
		marked := b.markedAt(text[at:])
		if marked == "" {
			at++
			continue
		}
		tokens = append(b.words(tokens, text[start:at]), b.markedTokens[marked])
		at += len(marked)
		start = at
	}
	return b.words(tokens, text[start:])
}

// markedAt is the longest user-defined piece with which the text begins.
func (b *byteLevel) markedAt(text string) string {
	for _, piece := range b.marked {
		if strings.HasPrefix(text, piece) {
			return piece
		}
	}
	return ""
}

func (b *byteLevel) words(tokens []int, text string) []int {
	for _, word := range b.split([]rune(text)) {
		tokens = b.pieces(tokens, string(word))
	}
	return tokens
}

// pieces appends the tokens of a word. A byte that has no piece is dropped before anything is merged.
func (b *byteLevel) pieces(tokens []int, word string) []int {
	if token, found := b.normal[word]; found && b.ignoreMerges {
		return append(tokens, token)
	}
	var bytes []string
	for i := range len(word) {
		if _, found := b.normal[word[i:i+1]]; found {
			bytes = append(bytes, word[i:i+1])
		}
	}
	for _, piece := range merge(bytes, b.score) {
		tokens = append(tokens, b.normal[piece])
	}
	return tokens
}

func (b *byteLevel) score(left, right string) (float32, bool) {
	rank, found := b.ranks[[2]string{left, right}]
	return -rank, found
}

// alphabet has the byte for which each character stands in a piece: printable characters of Latin-1 stand for
// themselves, and the characters from U+0100 on for the other bytes.
var alphabet = func() map[rune]byte {
	table := map[rune]byte{}
	next := rune(0x100)
	for b := range rune(256) {
		if '!' <= b && b <= '~' || '¡' <= b && b <= '¬' || '®' <= b && b <= 'ÿ' {
			table[b] = byte(b)
		} else {
			table[next] = byte(b)
			next++
		}
	}
	return table
}()

// bytesOf is what a piece stands for.
func bytesOf(piece string) (text string, ok bool) {
	bytes := make([]byte, 0, len(piece))
	for _, r := range piece {
		b, known := alphabet[r]
		if !known {
			return "", false
		}
		bytes = append(bytes, b)
	}
	return string(bytes), true
}
