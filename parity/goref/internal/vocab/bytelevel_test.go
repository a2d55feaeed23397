package vocab

import (
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	"conform/goref/internal/gguf"
)

// latin is an alphabet of bytes and a few merges; the last three pieces are a control, a user-defined and an unused one.
func latin(pre string) gguf.Metadata {
	pieces := strings.Split("a b c ' s S 1 2 . ! Ġ Ċ č Ã ©", " ")
	merges := []string{"a b", "Ġ a", "ab c", "b c", "Ġa b", "Ã ©", "1 1", "' s", "Ċ Ċ", "11 1"}
	for _, merge := range merges {
		pieces = append(pieces, strings.ReplaceAll(merge, " ", ""))
	}
	kinds := make([]int32, len(pieces)+3)
	for i := range kinds {
		kinds[i] = kindNormal
	}
	kinds[len(pieces)], kinds[len(pieces)+1], kinds[len(pieces)+2] = kindControl, kindUserDefined, kindUnused
	pieces = append(pieces, "<a>", "<b>", "[PAD27]")
	return gguf.Metadata{
		prefix + "model": "gpt2", prefix + "pre": pre, prefix + "tokens": pieces, prefix + "token_type": kinds,
		prefix + "merges": merges, prefix + "bos_token_id": uint32(len(pieces) - 3), prefix + "add_bos_token": false,
	}
}

func printed(t *testing.T, m gguf.Metadata, text string) string {
	t.Helper()
	v, err := Read(m)
	if err != nil {
		t.Fatal(err)
	}
	var pieces []string
	for _, token := range v.Encode(text) {
		pieces = append(pieces, v.Piece(token))
	}
	return strings.Join(pieces, "|")
}

func TestBytesAreMergedInTheOrderOfTheMerges(t *testing.T) {
	for text, expected := range map[string]string{
		"":         "",
		"abc":      "abc",
		"bc":       "bc",
		" abc":     " |abc", // "ab" comes before "Ġa", and "Ġ ab" is not a merge
		"é":        "é",
		"a\x00b":   "a|b",
		"ab\xffab": "ab|ab",
		"<a>":      "a",
		"a<b>c":    "a|<b>|c",
		"[PAD27]":  "2",
	} {
		if got := printed(t, latin("gpt-2"), text); got != expected {
			t.Errorf("%q: %q, expected %q", text, got, expected)
		}
	}
}

func TestBOSStandsBeforeEveryTextWhereTheModelWantsIt(t *testing.T) {
	m := latin("gpt-2")
	m[prefix+"add_bos_token"] = true
	if got := printed(t, m, "ab"); got != "<a>|ab" {
		t.Error(got)
	}
}

func TestEachPreTokenizerCutsItsOwnWords(t *testing.T) {
	for text, expected := range map[string][3]string{
		"abc's 1234":      {"abc|'s| 1234", "abc|'s| |123|4", "abc|'s| |1|2|3|4"},
		"IT'S":            {"IT|'|S", "IT|'S", "IT|'|S"},
		"x'ſ":             {"x|'|ſ", "x|'ſ", "x|'|ſ"},
		"a.b\n\nc":        {"a|.|b|\n|\n|c", "a|.b|\n\n|c", "a|.|b|\n|\n|c"},
		"!!\r\n !":        {"!!|\r\n| !", "!!\r\n| !", "!!|\r\n| !"},
		"a   b  ":         {"a|  | b|  ", "a|  | b|  ", "a|  | b|  "},
		"a \n \t b":       {"a| \n \t| b", "a| \n| \t| b", "a| \n \t| b"},
		"e\u0301 ٣٤x":     {"e|\u0301| ٣٤|x", "e|\u0301| |٣٤|x", "e|\u0301| |٣|٤|x"},
		"\u00a0\u3000漢字。": {"\u00a0|\u3000|漢字|。", "\u00a0|\u3000漢字|。", "\u00a0|\u3000|漢字|。"},
		"'re've'll'd'x":   {"'re|'ve|'ll|'d|'|x", "'re|'ve|'ll|'d|'x", "'re|'ve|'ll|'d|'|x"},
		"":                {"", "", ""},
	} {
		for i, name := range []string{"gpt-2", "llama-bpe", "smollm"} {
			var words []string
			for _, word := range splitters[name]([]rune(text)) {
				words = append(words, string(word))
			}
			if got := strings.Join(words, "|"); got != expected[i] {
				t.Errorf("%s of %q: %q, expected %q", name, text, got, expected[i])
			}
		}
	}
}

func TestAWordThatIsAPieceIsThatPieceWithLlama3(t *testing.T) {
	for pre, expected := range map[string]string{"gpt-2": "a|c", "llama-bpe": "ac"} {
		m := latin(pre)
		m[prefix+"tokens"] = append(m[prefix+"tokens"].([]string), "ac")
		m[prefix+"token_type"] = append(m[prefix+"token_type"].([]int32), kindNormal)
		if got := printed(t, m, "ac"); got != expected {
			t.Errorf("%s: %q, expected %q", pre, got, expected)
		}
	}
}

func TestWhatCannotBeHonouredOfByteLevelsIsRefused(t *testing.T) {
	spoilt := func(key string, value any) gguf.Metadata {
		m := maps.Clone(latin("gpt-2"))
		if m[prefix+key] = value; value == nil {
			delete(m, prefix+key)
		}
		return m
	}
	with := func(piece string, kind int32) gguf.Metadata {
		m := spoilt("tokens", append(latin("gpt-2")[prefix+"tokens"].([]string), piece))
		m[prefix+"token_type"] = append(m[prefix+"token_type"].([]int32), kind)
		return m
	}
	cases := map[string]gguf.Metadata{
		"another pre-tokenizer": spoilt("pre", "qwen2"),
		"no pre-tokenizer":      spoilt("pre", nil),
		"no tokens":             spoilt("tokens", nil),
		"no types":              spoilt("token_type", nil),
		"fewer types":           spoilt("token_type", []int32{1}),
		"no merges":             spoilt("merges", nil),
		"merge of one":          spoilt("merges", []string{"ab"}),
		"merge of three":        spoilt("merges", []string{"a b c"}),
		"merge of no piece":     spoilt("merges", []string{"x y"}),
		"merge to no piece":     spoilt("merges", []string{"c c"}),
		"merge twice":           spoilt("merges", []string{"a b", "a b"}),
		"no add_bos_token":      spoilt("add_bos_token", nil),
		"EOS added":             spoilt("add_eos_token", true),
		"a space in front":      spoilt("add_space_prefix", true),
		"piece twice":           with("ab", kindNormal),
		"piece of no bytes":     with("漢", kindNormal),
		"empty piece":           with("", kindNormal),
		"user-defined twice":    with("<b>", kindUserDefined),
		"unknown piece":         with("x", kindUnknown),
		"byte piece":            with("<0x0A>", kindByte),
	}
	for name, m := range cases {
		if _, err := Read(m); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestTheAlphabetHasEveryByteOnce(t *testing.T) {
	seen := map[byte]bool{}
	for _, b := range alphabet {
		seen[b] = true
	}
	if len(alphabet) != 256 || len(seen) != 256 || alphabet['Ġ'] != ' ' || alphabet['Ń'] != 0xad {
		t.Error(fmt.Sprint(alphabet))
	}
}

// The words are the text, whatever it is.
func FuzzWords(f *testing.F) {
	f.Add("it's 1234 \r\n  x")
	f.Fuzz(func(t *testing.T, text string) {
		points := []rune(text)
		for name, split := range splitters {
			var joined []rune
			for _, word := range split(points) {
				joined = append(joined, word...)
			}
			if len(points) > 0 && !reflect.DeepEqual(joined, points) {
				t.Errorf("%s of %q gives %q", name, text, string(joined))
			}
		}
	})
}
