package quant

import (
	"encoding/binary"
	"fmt"
	"math"

	"conform/goref/internal/gguf"
	"conform/goref/internal/parallel"
)

// Ternary is an I2_S tensor: every weight is one of -1, 0, +1 times one scale.
type Ternary struct {
	Trits []int8
	Scale float32
}

// Values returns the weights as floats.
func (t Ternary) Values() []float32 {
	values := make([]float32, len(t.Trits))
	for i, trit := range t.Trits {
		values[i] = float32(trit) * t.Scale
	}
	return values
}

// DecodeI2S reads groups of 128 values that run across rows:
//
//	byte j of the 32 bytes of a group    bits 7-6   5-4      3-2      1-0
//	holds the codes of the elements           j     j+32     j+64     j+96
//
// Codes 0, 1, 2 are -1, 0, +1. The f32 scale follows the last group.
func DecodeI2S(t gguf.Tensor, raw []byte) (Ternary, error) {
	n := int(t.Count)
	packed := int(gguf.I2SPacked(t.Count))
	if uint64(len(raw)) != t.Bytes || packed+4 > len(raw) {
		return Ternary{}, fmt.Errorf("tensor %s: %d bytes are not an I2_S tensor of %d values", t.Name, len(raw), n)
	}
	scale := math.Float32frombits(binary.LittleEndian.Uint32(raw[packed:]))
	if scale-scale != 0 {
		return Ternary{}, fmt.Errorf("tensor %s: the scale is %v, expected a finite number", t.Name, scale)
	}
	trits := make([]int8, n)
	parallel.Rows(packed/32, grain, func(from, to int) {
		for group := from; group < to; group++ {
			unpackGroup(raw[group*32:group*32+32], trits[group*128:min(group*128+128, n)])
		}
	})
	for i, trit := range trits {
		if trit == 2 {
			return Ternary{}, fmt.Errorf("tensor %s: value %d has the code 3, which I2_S does not define", t.Name, i)
		}
	}
	return Ternary{trits, scale}, nil
}

func unpackGroup(packed []byte, trits []int8) {
	if len(trits) == 128 {
		for j, b := range packed[:32] {
			trits[j] = int8(b>>6) - 1
			trits[j+32] = int8(b>>4&3) - 1
			trits[j+64] = int8(b>>2&3) - 1
			trits[j+96] = int8(b&3) - 1
		}
		return
	}
	// The last group of a tensor may be incomplete.
	for i := range trits {
		trits[i] = int8(packed[i%32]>>(6-2*(i/32))&3) - 1
	}
}

// CountCodes returns how often each of the four 2-bit codes occurs among the values of an I2_S tensor.
func CountCodes(t gguf.Tensor, raw []byte) (counts [4]uint64) {
	for i := range t.Count {
		counts[raw[i/128*32+i%32]>>(6-2*(i%128/32))&3]++
	}
	return counts
}
