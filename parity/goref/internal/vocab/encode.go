package vocab

import (
	"container/heap"
	"strings"
)

// mark stands for a space inside pieces.
const mark = "\u2581"

func unmark(piece string) string { return strings.ReplaceAll(piece, mark, " ") }

// Encode returns the tokens of a text, BOS first where the model wants it. Text that looks like a special token is
// ordinary text. An empty text has no tokens of its own.
func (v *Vocabulary) Encode(text string) []int {
	var tokens []int
	if v.addBOS {
		tokens = append(tokens, v.bos)
	}
	if text == "" {
		return tokens
	}
	return v.emit(tokens, v.merge(split(mark+strings.ReplaceAll(text, " ", mark))))
}

// symbol is a stretch of text in a doubly linked list; an empty text means that it was merged away.
type symbol struct {
	text           string
	previous, next int
}

// split returns one symbol per code point; each byte of invalid UTF-8 becomes U+FFFD.
func split(text string) []symbol {
	var symbols []symbol
	for _, r := range text {
		at := len(symbols)
		symbols = append(symbols, symbol{string(r), at - 1, at + 1})
	}
	symbols[len(symbols)-1].next = -1
	return symbols
}

// merge joins neighbours whose union is a piece, the highest score first, the leftmost on ties.
func (v *Vocabulary) merge(symbols []symbol) []symbol {
	agenda := &candidates{}
	for left := range symbols {
		v.propose(agenda, symbols, left)
	}
	for agenda.Len() > 0 {
		best := heap.Pop(agenda).(candidate)
		left, right := &symbols[best.left], &symbols[best.right]
		// Either side may have grown or gone since this was proposed.
		if left.text == "" || right.text == "" || len(left.text)+len(right.text) != best.length {
			continue
		}
		left.text += right.text
		right.text = ""
		left.next = right.next
		if right.next >= 0 {
			symbols[right.next].previous = best.left
		}
		v.propose(agenda, symbols, left.previous)
		v.propose(agenda, symbols, best.left)
	}
	return symbols
}

// propose adds the union of a symbol and its successor to the agenda if it is a piece.
func (v *Vocabulary) propose(agenda *candidates, symbols []symbol, left int) {
	if left < 0 || symbols[left].next < 0 {
		return
	}
	right := symbols[left].next
	union := symbols[left].text + symbols[right].text
	if token, found := v.normal[union]; found {
		heap.Push(agenda, candidate{v.scores[token], left, right, len(union)})
	}
}

// emit appends the tokens of what is left; text that is not a piece becomes its bytes, or else the unknown token.
func (v *Vocabulary) emit(tokens []int, symbols []symbol) []int {
	for at := 0; at >= 0; at = symbols[at].next {
		text := symbols[at].text
		if token, found := v.normal[text]; found {
			tokens = append(tokens, token)
			continue
		}
		tokens = v.emitBytes(tokens, text)
	}
	return tokens
}

func (v *Vocabulary) emitBytes(tokens []int, text string) []int {
	for _, b := range []byte(text) {
		if v.bytes[b] < 0 {
			return append(tokens, v.unknown)
		}
	}
	for _, b := range []byte(text) {
		tokens = append(tokens, v.bytes[b])
	}
	return tokens
}

type candidate struct {
	score       float32
	left, right int
	length      int
}

type candidates []candidate

func (c candidates) Len() int      { return len(c) }
func (c candidates) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c candidates) Less(i, j int) bool {
	if c[i].score != c[j].score {
		return c[i].score > c[j].score
	}
	return c[i].left < c[j].left
}
func (c *candidates) Push(x any) { *c = append(*c, x.(candidate)) }
func (c *candidates) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}
