// Package quant decodes packed tensors to float32, block by block.
package quant

import (
	"encoding/binary"
	"fmt"
	"math"

	"conform/goref/internal/gguf"
	"conform/goref/internal/parallel"
)

// The fewest blocks that one goroutine decodes.
const grain = 1024

// A decoder turns the bytes of one block into its values; a decoder of single values takes any number of them at once.
type decoder func(block []byte, values []float32)

var decoders = map[gguf.Type]decoder{
	gguf.F32:    f32,
	gguf.F16:    f16,
	gguf.BF16:   bf16,
	gguf.Q4_0:   q40,
	gguf.Q4_1:   q41,
	gguf.Q5_0:   q50,
	gguf.Q5_1:   q51,
	gguf.Q8_0:   q8,
	gguf.Q2K:    q2k,
	gguf.Q3K:    q3k,
	gguf.Q4K:    q4k,
	gguf.Q5K:    q5k,
	gguf.Q6K:    q6k,
	gguf.IQ1S:   iq1s,
	gguf.IQ1M:   iq1m,
	gguf.IQ2XXS: iq2xxs,
	gguf.IQ2XS:  iq2xs,
	gguf.IQ2S:   iq2s,
	gguf.IQ3XXS: iq3xxs,
	gguf.IQ3S:   iq3s,
	gguf.IQ4NL:  iq4nl,
	gguf.IQ4XS:  iq4xs,
	gguf.TQ1_0:  tq1,
	gguf.TQ2_0:  tq2,
	gguf.MXFP4:  mxfp4,
}

// Decode returns the values of a tensor from its packed bytes.
func Decode(t gguf.Tensor, raw []byte) ([]float32, error) {
	if t.Type == gguf.I2S {
		ternary, err := DecodeI2S(t, raw)
		if err != nil {
			return nil, err
		}
		return ternary.Values(), nil
	}
	decode, known := decoders[t.Type]
	layout, _ := t.Type.Layout()
	if !known || uint64(len(raw)) != t.Bytes {
		return nil, fmt.Errorf("tensor %s: %d bytes of %v cannot be decoded", t.Name, len(raw), t.Type)
	}
	values := make([]float32, t.Count)
	size, bytes := int(layout.BlockSize), int(layout.BlockBytes)
	parallel.Rows(len(values)/size, grain, func(from, to int) {
		if size == 1 {
			decode(raw[from*bytes:to*bytes], values[from:to])
			return
		}
		for i := from; i < to; i++ {
			decode(raw[i*bytes:(i+1)*bytes], values[i*size:(i+1)*size])
		}
	})
	return values, nil
}

// Finite fails on the first value that is NaN or infinite.
func Finite(name string, values []float32) error {
	for i, v := range values {
		if v-v != 0 {
			return fmt.Errorf("tensor %s: value %d is %v; only finite weights can be run", name, i, v)
		}
	}
	return nil
}

func f32(raw []byte, values []float32) {
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
}

func f16(raw []byte, values []float32) {
	for i := range values {
		values[i] = half(raw[2*i:])
	}
}

func bf16(raw []byte, values []float32) {
	for i := range values {
		values[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(raw[2*i:])) << 16)
	}
}

// q8: f16 d; 32 int8.
func q8(block []byte, values []float32) {
	d := half(block)
	for i := range values {
		values[i] = d * float32(int8(block[2+i]))
	}
}

// half reads a little-endian IEEE 754 binary16.
func half(raw []byte) float32 {
	bits := uint32(binary.LittleEndian.Uint16(raw))
	sign, exponent, fraction := bits>>15<<31, bits>>10&0x1f, bits&0x3ff
	switch exponent {
	case 0:
		// Zero and subnormals: fraction x 2^-24, exact in float32.
		return math.Float32frombits(sign | math.Float32bits(float32(fraction)*0x1p-24))
	case 0x1f:
		exponent = 255 - 112
	}
	return math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13)
}
