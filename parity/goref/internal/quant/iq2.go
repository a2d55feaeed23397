package quant

import (
	"encoding/binary"
	"math/bits"
)

// signs8 completes a 7-bit sign code: bit 7 makes the number of minus signs even.
func signs8(code uint32) uint32 {
	code &= 0x7f
	return code | uint32(bits.OnesCount32(code)&1)<<7
}

func iq2Point(values []float32, point uint64, signs uint32, scale float32) {
	for i := range values {
		values[i] = signed(scale*float32(point>>(8*i)&0xff), signs>>i)
	}
}

func signed(value float32, sign uint32) float32 {
	if sign&1 != 0 {
		return -value
	}
	return value
}

// The levels 8, 25, 43 stand for 1, 3.125, 5.375: (l + 1/2)/4 is (2l+1)/8.
func iq2Scale(d float32, l uint32) float32 { return d * (float32(l) + 0.5) * 0.25 }

// iq2xxs (66 bytes): f16 d; per 32 values 4 bytes grid index of 8 values and a u32: four 7-bit sign codes, 4 bits scale.
func iq2xxs(block []byte, values []float32) {
	d := half(block)
	for part := range 8 {
		index := block[2+8*part : 10+8*part]
		code := binary.LittleEndian.Uint32(index[4:])
		scale := iq2Scale(d, code>>28)
		for k := range 4 {
			at := 32*part + 8*k
			iq2Point(values[at:at+8], iq2xxsGrid[index[k]], signs8(code>>(7*k)), scale)
		}
	}
}

// iq2xs (74 bytes): f16 d; 32 u16: 9 bits grid index, 7 bits sign code; 8 bytes, a nibble of scale per 16 values.
func iq2xs(block []byte, values []float32) {
	d, codes, scales := half(block), block[2:66], block[66:74]
	for group := range 32 {
		code := uint32(binary.LittleEndian.Uint16(codes[2*group:]))
		scale := iq2Scale(d, nibble(scales, group/2))
		iq2Point(values[8*group:8*group+8], iq2xsGrid[code&511], signs8(code>>9), scale)
	}
}

// iq2s (82 bytes): f16 d; 32 bytes low index; 32 bytes of signs; 8 bytes with 2 high bits per group; 8 bytes of scales.
func iq2s(block []byte, values []float32) {
	d, low, signs, high, scales := half(block), block[2:34], block[34:66], block[66:74], block[74:82]
	for group := range 32 {
		index := int(low[group]) | int(high[group/4]>>(2*(group%4))&3)<<8
		scale := iq2Scale(d, nibble(scales, group/2))
		iq2Point(values[8*group:8*group+8], iq2sGrid[index], uint32(signs[group]), scale)
	}
}

// nibble i of the bytes, low nibble first.
func nibble(raw []byte, i int) uint32 { return uint32(raw[i/2] >> (4 * (i % 2)) & 15) }
