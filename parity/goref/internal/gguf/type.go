package gguf

import "fmt"

// Type is the id of a ggml tensor type as a file stores it.
type Type uint32

// The types that goref decodes.
const (
	F32    Type = 0
	F16    Type = 1
	Q4_0   Type = 2
	Q4_1   Type = 3
	Q5_0   Type = 6
	Q5_1   Type = 7
	Q8_0   Type = 8
	Q2K    Type = 10
	Q3K    Type = 11
	Q4K    Type = 12
	Q5K    Type = 13
	Q6K    Type = 14
	IQ2XXS Type = 16
	IQ2XS  Type = 17
	IQ3XXS Type = 18
	IQ1S   Type = 19
	IQ4NL  Type = 20
	IQ3S   Type = 21
	IQ2S   Type = 22
	IQ4XS  Type = 23
	IQ1M   Type = 29
	BF16   Type = 30
	TQ1_0  Type = 34
	TQ2_0  Type = 35
	I2S    Type = 36
	MXFP4  Type = 39
)

// Layout says how many values a block holds and how many bytes it takes.
type Layout struct {
	Name       string
	BlockSize  uint64
	BlockBytes uint64
}

// I2_S is laid out over the whole tensor, not in blocks of a row; its size has a rule of its own.
var layouts = map[Type]Layout{
	F32:    {"F32", 1, 4},
	F16:    {"F16", 1, 2},
	Q4_0:   {"Q4_0", 32, 18},
	Q4_1:   {"Q4_1", 32, 20},
	Q5_0:   {"Q5_0", 32, 22},
	Q5_1:   {"Q5_1", 32, 24},
	Q8_0:   {"Q8_0", 32, 34},
	Q2K:    {"Q2_K", 256, 84},
	Q3K:    {"Q3_K", 256, 110},
	Q4K:    {"Q4_K", 256, 144},
	Q5K:    {"Q5_K", 256, 176},
	Q6K:    {"Q6_K", 256, 210},
	IQ2XXS: {"IQ2_XXS", 256, 66},
	IQ2XS:  {"IQ2_XS", 256, 74},
	IQ3XXS: {"IQ3_XXS", 256, 98},
	IQ1S:   {"IQ1_S", 256, 50},
	IQ4NL:  {"IQ4_NL", 32, 18},
	IQ3S:   {"IQ3_S", 256, 110},
	IQ2S:   {"IQ2_S", 256, 82},
	IQ4XS:  {"IQ4_XS", 256, 136},
	IQ1M:   {"IQ1_M", 256, 56},
	BF16:   {"BF16", 1, 2},
	TQ1_0:  {"TQ1_0", 256, 54},
	TQ2_0:  {"TQ2_0", 256, 66},
	I2S:    {"I2_S", 4, 1},
	MXFP4:  {"MXFP4", 32, 17},
}

// Layout returns the block layout, and false for a type that goref does not decode.
func (t Type) Layout() (Layout, bool) {
	layout, known := layouts[t]
	return layout, known
}

func (t Type) String() string {
	if layout, known := layouts[t]; known {
		return layout.Name
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// I2SPacked is the number of bytes that the 2-bit codes of n values take: 32 for each group of 128, complete or not.
func I2SPacked(n uint64) uint64 {
	return (n + 127) / 128 * 32
}

// size is the number of bytes of a tensor with rows of cols values, n values in all.
func (t Type) size(cols, n uint64) (uint64, error) {
	layout, known := layouts[t]
	if !known {
		return 0, fmt.Errorf("%v is not supported", t)
	}
	if t == I2S {
		return i2sSize(n)
	}
	if cols%layout.BlockSize != 0 {
		return 0, fmt.Errorf("rows of %d values are not whole blocks of %d, which %v needs", cols, layout.BlockSize, t)
	}
	return n / layout.BlockSize * layout.BlockBytes, nil
}

// i2sSize is n/4 + 32: the codes, one f32 scale right after them, zero padding.
func i2sSize(n uint64) (uint64, error) {
	size := n/4 + 32
	if n%4 != 0 || I2SPacked(n)+4 > size {
		return 0, fmt.Errorf("%d values leave no room for the scale of I2_S within n/4 + 32 bytes", n)
	}
	return size, nil
}
