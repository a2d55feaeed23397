package vocab

import "container/heap"

// symbol is a stretch of text in a doubly linked list; an empty text means that it was merged away.
type symbol struct {
	text           string
	previous, next int
}

// linked returns the texts as a list.
func linked(texts []string) []symbol {
	symbols := make([]symbol, len(texts))
	for at, text := range texts {
		symbols[at] = symbol{text, at - 1, at + 1}
	}
	if len(symbols) > 0 {
		symbols[len(symbols)-1].next = -1
	}
	return symbols
}

// scorer is the score of the union of two neighbours, if they may be merged.
type scorer func(left, right string) (score float32, found bool)

// merge joins neighbours, the highest score first, the leftmost on ties, and returns what is left of the texts.
func merge(texts []string, score scorer) []string {
	symbols := linked(texts)
	agenda := &candidates{}
	for left := range symbols {
		agenda.propose(symbols, left, score)
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
		agenda.propose(symbols, left.previous, score)
		agenda.propose(symbols, best.left, score)
	}
	var merged []string
	for at := 0; at < len(symbols) && at >= 0; at = symbols[at].next {
		merged = append(merged, symbols[at].text)
	}
	return merged
}

type candidate struct {
	score       float32
	left, right int
	length      int
}

type candidates []candidate

// propose adds the union of a symbol and its successor if they may be merged.
func (c *candidates) propose(symbols []symbol, left int, score scorer) {
	if left < 0 || symbols[left].next < 0 {
		return
	}
	right := symbols[left].next
	if score, found := score(symbols[left].text, symbols[right].text); found {
		heap.Push(c, candidate{score, left, right, len(symbols[left].text) + len(symbols[right].text)})
	}
}

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
