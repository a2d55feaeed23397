package vocab

import "sort"

// class is a set of characters: the first and the last of each range, in ascending order.
type class [][2]rune

func (c class) has(r rune) bool {
	at := sort.Search(len(c), func(i int) bool { return c[i][1] >= r })
	return at < len(c) && c[at][0] <= r
}

// category is what the pre-tokenizers tell apart.
type category byte

const (
	other category = iota
	letter
	number
	space
)

func categoryOf(r rune) category {
	switch {
	case letters.has(r):
		return letter
	case numbers.has(r):
		return number
	case spaces.has(r):
		return space
	}
	return other
}
