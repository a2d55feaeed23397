package quant

import (
	"encoding/binary"
	"math"
)

// Blocks of 32: byte j holds value j in its low nibble and value j+16 in its high one. A fifth bit of value i is bit i of
// a u32. A product is rounded to float32 before anything is added to it, so that no machine fuses the two.

// q40 (18 bytes): f16 d; nibbles, biased by 8.
func q40(block []byte, values []float32) {
	d := half(block)
	for j, b := range block[2:18] {
		values[j] = d * float32(int(b&15)-8)
		values[j+16] = d * float32(int(b>>4)-8)
	}
}

// q41 (20 bytes): f16 d, f16 m; nibbles.
func q41(block []byte, values []float32) {
	d, m := half(block), half(block[2:])
	for j, b := range block[4:20] {
		values[j] = float32(d*float32(b&15)) + m
		values[j+16] = float32(d*float32(b>>4)) + m
	}
}

// q50 (22 bytes): f16 d; u32 fifth bits; nibbles; biased by 16.
func q50(block []byte, values []float32) {
	d, fifth := half(block), binary.LittleEndian.Uint32(block[2:])
	for j, b := range block[6:22] {
		values[j] = d * float32(int(b&15|fifthBit(fifth, j))-16)
		values[j+16] = d * float32(int(b>>4|fifthBit(fifth, j+16))-16)
	}
}

// q51 (24 bytes): f16 d, f16 m; u32 fifth bits; nibbles.
func q51(block []byte, values []float32) {
	d, m, fifth := half(block), half(block[2:]), binary.LittleEndian.Uint32(block[4:])
	for j, b := range block[8:24] {
		values[j] = float32(d*float32(b&15|fifthBit(fifth, j))) + m
		values[j+16] = float32(d*float32(b>>4|fifthBit(fifth, j+16))) + m
	}
}

func fifthBit(bits uint32, i int) byte { return byte(bits>>i&1) << 4 }

// The values of the 4-bit floats of MXFP4, doubled.
var fp4Levels = [16]int8{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}

// mxfp4 (17 bytes): exponent e of a power of two, biased by 127; nibbles, each a 4-bit float. The levels are doubled, so
// the scale is 2^(e-128); the two smallest are subnormal.
func mxfp4(block []byte, values []float32) {
	d := float32(math.Ldexp(1, int(block[0])-128))
	for j, b := range block[1:17] {
		values[j] = d * float32(fp4Levels[b&15])
		values[j+16] = d * float32(fp4Levels[b>>4])
	}
}
