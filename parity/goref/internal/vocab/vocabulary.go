// Package vocab turns text into tokens: as SentencePiece BPE with byte fallback and identity normalisation does, and as
// byte-level BPE does.
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
	texts []string // what each token prints
	bos   []int    // what every text begins with: BOS, where the model wants it
	model model
}

// model gives the tokens of a text that is not empty.
type model interface {
	encode(text string) []int
}

// Read fails on every key that is missing and on every setting that this tokenizer cannot honour.
func Read(metadata gguf.Metadata) (*Vocabulary, error) {
	kind, err := metadata.Text(prefix + "model")
	if err != nil {
		return nil, err
	}
	switch kind {
	case "llama":
		return readSentencePiece(metadata)
	case "gpt2":
		return readByteLevel(metadata)
	}
	return nil, fmt.Errorf("key %smodel = %q is not supported, expected llama or gpt2", prefix, kind)
}

// Size is the number of pieces.
func (v *Vocabulary) Size() int { return len(v.texts) }

// Piece returns what a token prints.
func (v *Vocabulary) Piece(token int) string { return v.texts[token] }

// Encode returns the tokens of a text, BOS first where the model wants it. Text that looks like a control token is
// ordinary text. An empty text has no tokens of its own.
func (v *Vocabulary) Encode(text string) []int {
	tokens := append([]int(nil), v.bos...)
	if text == "" {
		return tokens
	}
	return append(tokens, v.model.encode(text)...)
}

// refuse fails where a setting has another value than the only one that is honoured, or where a key must not be.
func refuse(metadata gguf.Metadata, only map[string]any, never ...string) error {
	for key, value := range only {
		if found, set := metadata[prefix+key]; set && found != value {
			return fmt.Errorf("key %s%s = %v is not supported, expected %v", prefix, key, found, value)
		}
	}
	for _, key := range never {
		if metadata.Has(prefix + key) {
			return fmt.Errorf("key %s%s is not supported", prefix, key)
		}
	}
	return nil
}

// readPieces returns the pieces and their kinds.
func readPieces(metadata gguf.Metadata) (pieces []string, kinds []int32, err error) {
	if pieces, err = metadata.Texts(prefix + "tokens"); err != nil {
		return nil, nil, err
	}
	if kinds, err = metadata.Ints(prefix + "token_type"); err != nil {
		return nil, nil, err
	}
	if len(kinds) != len(pieces) {
		return nil, nil, fmt.Errorf("%d tokens, but %d token types", len(pieces), len(kinds))
	}
	return pieces, kinds, nil
}

// readID returns the special token of that key.
func readID(metadata gguf.Metadata, key string, size int) (int, error) {
	token, err := metadata.Count(prefix + key)
	if err == nil && token >= size {
		err = fmt.Errorf("key %s%s = %d, but there are %d tokens", prefix, key, token, size)
	}
	return token, err
}

// readBOS returns what every text begins with.
func readBOS(metadata gguf.Metadata, size int) ([]int, error) {
	if wanted, err := metadata.Bool(prefix + "add_bos_token"); err != nil || !wanted {
		return nil, err
	}
	bos, err := readID(metadata, "bos_token_id", size)
	return []int{bos}, err
}
