package vocab

import (
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	"conform/goref/internal/gguf"
)

type entry struct {
	piece string
	score float32
	kind  int32
}

// metadata has <unk> <s> </s>, the bytes if wanted, and the entries.
func metadata(bytes bool, entries ...entry) gguf.Metadata {
	all := []entry{{"<unk>", 0, kindUnknown}, {"<s>", 0, kindControl}, {"</s>", 0, kindControl}}
	for b := 0; bytes && b < 256; b++ {
		all = append(all, entry{fmt.Sprintf("<0x%02X>", b), 0, kindByte})
	}
	all = append(all, entries...)
	var pieces []string
	var scores []float32
	var kinds []int32
	for _, e := range all {
		pieces, scores, kinds = append(pieces, e.piece), append(scores, e.score), append(kinds, e.kind)
	}
	return gguf.Metadata{
		prefix + "model": "llama", prefix + "tokens": pieces, prefix + "scores": scores, prefix + "token_type": kinds,
		prefix + "bos_token_id": uint32(1), prefix + "unknown_token_id": uint32(0), prefix + "add_bos_token": true,
	}
}

func words(pieces ...string) (entries []entry) {
	for rank, piece := range pieces {
		entries = append(entries, entry{piece, -float32(rank), kindNormal})
	}
	return entries
}

func encode(t *testing.T, m gguf.Metadata, text string) string {
	t.Helper()
	v, err := Read(m)
	if err != nil {
		t.Fatal(err)
	}
	var pieces []string
	for _, token := range v.Encode(text) {
		pieces = append(pieces, v.model.(*sentencePiece).pieces[token])
	}
	return strings.Join(pieces, " ")
}

func TestMergesGoByScoreThenFromTheLeft(t *testing.T) {
	m := metadata(true, words("aa", "ab", "▁aa", "abb", "▁", "a", "b")...)
	for text, expected := range map[string]string{
		"":        "<s>",
		"aaa":     "<s> ▁aa a",
		"ab":      "<s> ▁ ab",
		"aab":     "<s> ▁aa b",
		"abb":     "<s> ▁ abb",
		"a  a":    "<s> ▁ a ▁ ▁ a",
		" a":      "<s> ▁ ▁ a",
		"<s>":     "<s> ▁ <0x3C> <0x73> <0x3E>",
		"é":       "<s> ▁ <0xC3> <0xA9>",
		"\xff":    "<s> ▁ <0xEF> <0xBF> <0xBD>",
		"a\n":     "<s> ▁ a <0x0A>",
		"▁a":      "<s> ▁ ▁ a",
		"a\x00a":  "<s> ▁ a <0x00> a",
		"aaaaaaa": "<s> ▁aa aa aa a",
	} {
		if got := encode(t, m, text); got != expected {
			t.Errorf("%q: %s, expected %s", text, got, expected)
		}
	}
}

func TestWithoutBytePiecesTheRestIsUnknown(t *testing.T) {
	if got := encode(t, metadata(false, words("▁", "a")...), "aéa"); got != "<s> ▁ a <unk> a" {
		t.Error(got)
	}
}

func TestNoBOSWhereTheModelWantsNone(t *testing.T) {
	m := metadata(true, words("▁", "a")...)
	m[prefix+"add_bos_token"] = false
	if got := encode(t, m, "a"); got != "▁ a" {
		t.Error(got)
	}
}

func TestNoSpaceIsPutBeforeATextWhereTheModelWantsNone(t *testing.T) {
	m := metadata(true, words("▁a", "▁", "a")...)
	m[prefix+"add_space_prefix"] = false
	for text, expected := range map[string]string{"a": "<s> a", " a a": "<s> ▁a ▁a", "": "<s>"} {
		if got := encode(t, m, text); got != expected {
			t.Errorf("%q: %s, expected %s", text, got, expected)
		}
	}
}

func TestPaddingRowsAreNeverProduced(t *testing.T) {
	m := metadata(true, append(words("▁", "a"), entry{"[PAD261]", -10000, kindUnused})...)
	if got := encode(t, m, "[PAD261]"); strings.Contains(got, "PAD") {
		t.Error(got)
	}
}

func TestPiecesPrintWithSpacesForMarksAndBytesLiterally(t *testing.T) {
	v, err := Read(metadata(true, words("▁a▁b")...))
	if err != nil {
		t.Fatal(err)
	}
	if v.Piece(259) != " a b" || v.Piece(3+10) != "<0x0A>" {
		t.Errorf("%q %q", v.Piece(259), v.Piece(13))
	}
}

func TestWhatCannotBeHonouredIsRefused(t *testing.T) {
	good := metadata(true, words("▁", "a")...)
	spoil := func(changes gguf.Metadata) gguf.Metadata {
		m := maps.Clone(good)
		for key, value := range changes {
			if m[prefix+key] = value; value == nil {
				delete(m, prefix+key)
			}
		}
		return m
	}
	cases := map[string]gguf.Metadata{
		"another model":     spoil(gguf.Metadata{"model": "gpt2"}),
		"no model":          spoil(gguf.Metadata{"model": nil}),
		"no tokens":         spoil(gguf.Metadata{"tokens": nil}),
		"no scores":         spoil(gguf.Metadata{"scores": nil}),
		"fewer scores":      spoil(gguf.Metadata{"scores": []float32{0}}),
		"no types":          spoil(gguf.Metadata{"token_type": nil}),
		"no BOS":            spoil(gguf.Metadata{"bos_token_id": nil}),
		"BOS outside":       spoil(gguf.Metadata{"bos_token_id": uint32(9999)}),
		"no unknown":        spoil(gguf.Metadata{"unknown_token_id": nil}),
		"no add_bos_token":  spoil(gguf.Metadata{"add_bos_token": nil}),
		"number as prefix":  spoil(gguf.Metadata{"add_space_prefix": uint32(0)}),
		"EOS added":         spoil(gguf.Metadata{"add_eos_token": true}),
		"spaces removed":    spoil(gguf.Metadata{"remove_extra_whitespaces": true}),
		"pre-tokenizer":     spoil(gguf.Metadata{"pre": "llama-bpe"}),
		"normalisation":     spoil(gguf.Metadata{"precompiled_charsmap": []byte{1}}),
		"merges":            spoil(gguf.Metadata{"merges": []string{"a b"}}),
		"user-defined":      metadata(true, entry{"x", 0, kindUserDefined}),
		"unused":            metadata(true, entry{"x", 0, kindUnused}),
		"unknown type":      metadata(true, entry{"x", 0, 7}),
		"piece twice":       metadata(true, words("a", "a")...),
		"empty piece":       metadata(true, words("")...),
		"byte twice":        metadata(true, entry{"<0x0A>", 0, kindByte}),
		"malformed byte":    metadata(false, entry{"<0x0a>", 0, kindByte}),
		"byte out of range": metadata(false, entry{"<0x1FF>", 0, kindByte}),
	}
	for name, m := range cases {
		if _, err := Read(m); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := Read(good); err != nil {
		t.Error(err)
	}
}

// Merging with a queue gives the same tokens as looking at all pairs before each merge.
func FuzzEncode(f *testing.F) {
	v, err := Read(metadata(true, words("aa", "ab", "▁a", "ba", "aba", "▁aba", "bb", "é▁", "▁", "a", "b", "é")...))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("abab aabba é  é b")
	f.Add("\xffa\x00")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 200 {
			return
		}
		if got, expected := v.Encode(text), v.model.(*sentencePiece).encodeSlowly(text); !reflect.DeepEqual(got, expected) {
			t.Errorf("%q: %v, expected %v", text, got, expected)
		}
	})
}

func (s *sentencePiece) encodeSlowly(text string) []int {
	tokens := []int{1}
	if text == "" {
		return tokens
	}
	var parts []string
	for _, r := range mark + strings.ReplaceAll(text, " ", mark) {
		parts = append(parts, string(r))
	}
	for {
		best, at := 0, -1
		for i := 0; i+1 < len(parts); i++ {
			token, found := s.normal[parts[i]+parts[i+1]]
			if found && (at < 0 || s.scores[token] > s.scores[best]) {
				best, at = token, i
			}
		}
		if at < 0 {
			break
		}
		parts[at] += parts[at+1]
		parts = append(parts[:at+1], parts[at+2:]...)
	}
	for _, part := range parts {
		tokens = s.emit(tokens, part)
	}
	return tokens
}
