package vocab

// splitter cuts a text into the words inside which pieces are merged; the words together are the text.
type splitter func(text []rune) [][]rune

// splitters has the pre-tokenizers that are known here, by the names that llama.cpp gives them.
var splitters = map[string]splitter{
	"gpt-2":     splitGPT2,
	"llama-bpe": splitLlama3,
	"smollm":    splitSmolLM,
}

// aliases are other names of llama.cpp's for the same pre-tokenizers.
var aliases = map[string]string{
	"phi-2": "gpt-2", "mpt": "gpt-2", "olmo": "gpt-2", "jais": "gpt-2", "exaone4": "gpt-2", "trillion": "gpt-2",
	"granite-docling": "gpt-2", "modern-bert": "gpt-2",
	"starcoder": "smollm", "refact": "smollm", "command-r": "smollm", "codeshell": "smollm", "exaone": "smollm",
	"minerva-7b": "smollm", "mellum2": "smollm",
	"llama3": "llama-bpe", "llama-v3": "llama-bpe", "falcon3": "llama-bpe", "falcon-h1": "llama-bpe",
	"pixtral": "llama-bpe", "lfm2": "llama-bpe",
}

// splitGPT2 cuts as this regular expression does:
//
//	's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
func splitGPT2(text []rune) [][]rune {
	return cut(text, func(t *scan) int {
		if n := t.contraction(false); n > 0 {
			return n
		}
		start := 0
		if t.at(0) == ' ' && t.category(1) != space && t.has(1) {
			start = 1
		}
		if of := t.category(start); of != space {
			return t.run(start, of)
		}
		return t.blank()
	})
}

// splitSmolLM makes each digit a word and cuts what lies between them as GPT-2 does.
func splitSmolLM(text []rune) [][]rune {
	var words [][]rune
	start := 0
	for i, r := range text {
		if digits.has(r) {
			words = append(append(words, splitGPT2(text[start:i])...), text[i:i+1])
			start = i + 1
		}
	}
	return append(words, splitGPT2(text[start:])...)
}

// splitLlama3 cuts as this regular expression does:
//
//	(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
func splitLlama3(text []rune) [][]rune {
	return cut(text, func(t *scan) int {
		if n := t.contraction(true); n > 0 {
			return n
		}
		first := t.category(0)
		switch {
		case first == letter:
			return t.run(0, letter)
		case first == number:
			return min(t.run(0, number), 3)
		case !lineEnd(t.at(0)) && t.category(1) == letter && t.has(1):
			return t.run(1, letter)
		case first == other:
			return t.lineEnds(t.run(0, other))
		case t.at(0) == ' ' && t.has(1) && t.category(1) == other:
			return t.lineEnds(t.run(1, other))
		}
		for end := t.run(0, space); end > 0; end-- {
			if lineEnd(t.at(end - 1)) {
				return end
			}
		}
		return t.blank()
	})
}

// cut asks again and again for the length of the next word.
func cut(text []rune, next func(*scan) int) [][]rune {
	var words [][]rune
	for rest := text; len(rest) > 0; {
		length := next(&scan{rest})
		words, rest = append(words, rest[:length]), rest[length:]
	}
	return words
}

// scan looks at the beginning of what is left of a text.
type scan struct{ rest []rune }

func (s *scan) has(i int) bool { return i < len(s.rest) }

// at is the character there, or -1 behind the end.
func (s *scan) at(i int) rune {
	if !s.has(i) {
		return -1
	}
	return s.rest[i]
}

func (s *scan) category(i int) category { return categoryOf(s.at(i)) }

// run is where the characters of that category end that begin at start.
func (s *scan) run(start int, of category) int {
	end := start
	for s.has(end) && s.category(end) == of {
		end++
	}
	return end
}

func (s *scan) lineEnds(start int) int {
	end := start
	for lineEnd(s.at(end)) {
		end++
	}
	return end
}

// blank is the length of the white space, without its last character where a word follows it.
func (s *scan) blank() int {
	end := s.run(0, space)
	if end > 1 && s.has(end) {
		end--
	}
	return end
}

// contraction is the length of 's 't 're 've 'm 'll 'd, 0 where there is none.
func (s *scan) contraction(anyCase bool) int {
	if s.at(0) != '\'' {
		return 0
	}
	first, second := s.small(1, anyCase), s.small(2, anyCase)
	switch first {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v':
		if second == 'e' {
			return 3
		}
	case 'l':
		if second == 'l' {
			return 3
		}
	}
	return 0
}

// small is the character there; in any case, a capital is its small letter, and so is the long s.
func (s *scan) small(i int, anyCase bool) rune {
	r := s.at(i)
	switch {
	case anyCase && 'A' <= r && r <= 'Z':
		return r - 'A' + 'a'
	case anyCase && r == '\u017f':
		return 's'
	}
	return r
}

func lineEnd(r rune) bool { return r == '\r' || r == '\n' }
