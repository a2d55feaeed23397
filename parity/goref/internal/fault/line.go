// Package fault renders errors for a terminal and a log.
package fault

import (
	"fmt"
	"strings"
	"unicode"
)

// Line is the text of an error on one line: names in it come from files and may hold line breaks and escapes.
func Line(err error) string {
	var line strings.Builder
	for _, r := range err.Error() {
		if unicode.IsPrint(r) {
			line.WriteRune(r)
		} else {
			fmt.Fprintf(&line, "\\x%02x", r)
		}
	}
	return line.String()
}
