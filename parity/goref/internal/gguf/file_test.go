package gguf

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// builder writes a GGUF header as the format describes it.
type builder struct{ bytes.Buffer }

func (b *builder) u32(values ...uint32) *builder {
	for _, v := range values {
		b.Write(binary.LittleEndian.AppendUint32(nil, v))
	}
	return b
}

func (b *builder) u64(values ...uint64) *builder {
	for _, v := range values {
		b.Write(binary.LittleEndian.AppendUint64(nil, v))
	}
	return b
}

func (b *builder) text(s string) *builder {
	b.u64(uint64(len(s))).WriteString(s)
	return b
}

func (b *builder) head(version uint32, tensors, keys uint64) *builder {
	return b.u32(magic, version).u64(tensors, keys)
}

func (b *builder) tensor(name string, kind Type, offset uint64, dims ...uint64) *builder {
	return b.text(name).u32(uint32(len(dims))).u64(dims...).u32(uint32(kind)).u64(offset)
}

func (b *builder) data(n int) *builder {
	b.Write(make([]byte, -b.Len()&31))
	b.Write(make([]byte, n))
	return b
}

func parse(b *builder) (*Header, error) {
	return Parse(bytes.NewReader(b.Bytes()), uint64(b.Len()))
}

func valid() *builder {
	b := new(builder).head(3, 2, 4)
	b.text("name").u32(typeString).text("x")
	b.text("count").u32(typeU64).u64(7)
	b.text("eps").u32(typeF32).u32(math.Float32bits(0.5))
	b.text("tokens").u32(typeArray, typeString).u64(2).text("a").text("▁b")
	b.tensor("first", F32, 0, 8, 2).tensor("second", Q8_0, 64, 32)
	return b.data(64 + 34)
}

func TestParseReadsKeysAndTensors(t *testing.T) {
	header, err := parse(valid())
	if err != nil {
		t.Fatal(err)
	}
	count, err := header.Metadata.Count("count")
	if err != nil || count != 7 {
		t.Errorf("count = %d, %v", count, err)
	}
	tokens, err := header.Metadata.Texts("tokens")
	if err != nil || len(tokens) != 2 || tokens[1] != "▁b" {
		t.Errorf("tokens = %q, %v", tokens, err)
	}
	second := header.Tensors[1]
	if second.Offset%32 != 0 || second.Bytes != 34 || header.Tensors[0].Rows() != 2 || header.Tensors[0].Cols() != 8 {
		t.Errorf("tensors = %+v", header.Tensors)
	}
}

func TestOpenReadsTheBytesOfATensor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.gguf")
	raw := valid().Bytes()
	raw[len(raw)-1] = 9
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	tensor, _ := file.Find("second")
	packed, err := file.Read(tensor, make([]byte, 100))
	if err != nil || len(packed) != 34 || packed[33] != 9 {
		t.Errorf("packed = %v, %v", packed, err)
	}
	if _, err := Open(t.TempDir()); err == nil {
		t.Error("a folder was opened")
	}
}

// Each file is refused for the reason named, without allocating in proportion to what it claims.
func TestHostileFilesAreRefused(t *testing.T) {
	one := func(kind uint32) *builder { return new(builder).head(3, 0, 1).text("k").u32(kind) }
	tensor := func(kind Type, offset uint64, dims ...uint64) *builder {
		return new(builder).head(3, 1, 0).tensor("w", kind, offset, dims...).data(64)
	}
	cases := map[string]struct {
		file   *builder
		reason string
	}{
		"empty":                 {new(builder), "magic"},
		"other magic":           {new(builder).u32(0x04034b50, 3).u64(0, 0), "not a GGUF"},
		"big endian":            {new(builder).u32(magicBigEndian, 3).u64(0, 0), "big-endian"},
		"version 1":             {new(builder).head(1, 0, 0), "version 1"},
		"version 4":             {new(builder).head(4, 0, 0), "version 4"},
		"too many keys":         {new(builder).head(3, 0, math.MaxUint64), "at most"},
		"too many tensors":      {new(builder).head(3, math.MaxUint64, 0), "at most"},
		"keys beyond the end":   {new(builder).head(3, 0, 1000), "left"},
		"tensors beyond":        {new(builder).head(3, 1000, 0), "left"},
		"endless name":          {new(builder).head(3, 0, 1).u64(1 << 60).data(64), "long"},
		"endless string":        {one(typeString).u64(math.MaxUint64), "long"},
		"string beyond the end": {one(typeString).u64(1 << 20), "left"},
		"unknown value type":    {one(13).u64(0), "unknown value type"},
		"endless array":         {one(typeArray).u32(typeU8).u64(math.MaxUint64), "left"},
		"endless string array":  {one(typeArray).u32(typeString).u64(1 << 61), "left"},
		"array of arrays":       {one(typeArray).u32(typeArray).u64(1), "only scalars"},
		"bool of 2":             {one(typeBool).u32(2), "bool"},
		"key twice":             {new(builder).head(3, 0, 2).text("k").u32(typeU32, 0).text("k").u32(typeU32, 0), "twice"},
		"invalid UTF-8":         {new(builder).head(3, 0, 1).text("\xff").u32(typeU32, 0), "UTF-8"},
		"alignment 0":           {new(builder).head(3, 0, 1).text(alignmentKey).u32(typeU32, 0), "power of two"},
		"alignment 24":          {new(builder).head(3, 0, 1).text(alignmentKey).u32(typeU32, 24), "power of two"},
		"alignment as u64":      {new(builder).head(3, 0, 1).text(alignmentKey).u32(typeU64).u64(32), "u32"},
		"no dimensions":         {tensor(F32, 0), "dimensions"},
		"five dimensions":       {tensor(F32, 0, 1, 1, 1, 1, 1), "dimensions"},
		"dimension 0":           {tensor(F32, 0, 0), "impossible"},
		"overflowing shape":     {tensor(F32, 0, 1<<33, 1<<33), "impossible"},
		"unknown type":          {tensor(4, 0, 32), "not supported"},
		"half a block":          {tensor(Q8_0, 0, 16), "whole blocks"},
		"I2_S without room":     {tensor(I2S, 0, 132), "no room"},
		"unaligned":             {tensor(F32, 4, 8), "aligned"},
		"beyond the end":        {tensor(F32, 64, 8), "end of the file"},
		"wrapping offset":       {tensor(F32, math.MaxUint64-31, 8), "end of the file"},
		"overlap": {new(builder).head(3, 2, 0).tensor("a", F32, 0, 16).tensor("b", F32, 32, 8).data(64),
			"overlap"},
		"tensor twice": {new(builder).head(3, 2, 0).tensor("a", F32, 0, 8).tensor("a", F32, 32, 8).data(64), "twice"},
		"foreign I2_S": {new(builder).head(3, 1, 1).text(layoutKey).u32(typeString).text("neon").
			tensor("w", I2S, 0, 128).data(64), "only x86"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := parse(c.file)
			if err == nil || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("error %v, expected one with %q", err, c.reason)
			}
		})
	}
}

func TestEveryTruncationIsRefused(t *testing.T) {
	whole := valid().Bytes()
	for n := range whole {
		if _, err := Parse(bytes.NewReader(whole[:n]), uint64(n)); err == nil {
			t.Fatalf("%d of %d bytes were accepted", n, len(whole))
		}
	}
}

func TestCountsMustBeWholeNumbersInRange(t *testing.T) {
	metadata := Metadata{
		"u32": uint32(5), "i64": int64(5), "i32": int32(5), "negative": int32(-1), "huge": uint64(1) << 40,
		"float": float32(5), "u8": uint8(5), "nan": float32(math.NaN()),
	}
	for _, key := range []string{"u32", "i64", "i32"} {
		if count, err := metadata.Count(key); err != nil || count != 5 {
			t.Errorf("%s: %d, %v", key, count, err)
		}
	}
	for _, key := range []string{"negative", "huge", "float", "u8", "absent"} {
		if _, err := metadata.Count(key); err == nil {
			t.Errorf("%s was taken as a count", key)
		}
	}
	for _, key := range []string{"nan", "u32", "absent"} {
		if _, err := metadata.Float(key); err == nil {
			t.Errorf("%s was taken as a float", key)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(valid().Bytes())
	f.Add(new(builder).head(2, 1, 0).tensor("w", I2S, 0, 128).data(64).Bytes())
	f.Add(new(builder).head(3, 0, 1).text("k").u32(typeArray, typeF64).u64(1 << 61).Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		header, err := Parse(bytes.NewReader(raw), uint64(len(raw)))
		if err != nil {
			return
		}
		for _, tensor := range header.Tensors {
			if tensor.Offset+tensor.Bytes > uint64(len(raw)) {
				t.Errorf("tensor %+v lies outside %d bytes", tensor, len(raw))
			}
		}
	})
}
