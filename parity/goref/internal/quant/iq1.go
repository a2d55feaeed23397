package quant

import "encoding/binary"

// The levels of both iq1 types are -1, 0, +1, shifted by this much up or down.
const iq1Delta = 0.125

func iq1Point(values []float32, index int, scale, delta float32) {
	point := iq1Grid[index]
	for i := range values {
		values[i] = scale * (float32(int8(point>>(8*i))) + delta)
	}
}

// iq1s (50 bytes): f16 d; 32 bytes low index of 8 values; 8 u16, one per 32 values: bits 3k…3k+2 high index of
// group k, bits 12-14 scale l, bit 15 sign of the shift. y = d(2l+1)(grid ± 0.125).
func iq1s(block []byte, values []float32) {
	d, low, high := half(block), block[2:34], block[34:50]
	for part := range 8 {
		h := int(binary.LittleEndian.Uint16(high[2*part:]))
		scale, delta := d*float32(2*(h>>12&7)+1), float32(iq1Delta)
		if h&0x8000 != 0 {
			delta = -delta
		}
		for k := range 4 {
			group := 4*part + k
			iq1Point(values[8*group:8*group+8], int(low[group])|h>>(3*k)&7<<8, scale, delta)
		}
	}
}

// iq1m (56 bytes): 32 bytes low index; 16 bytes, one nibble per group of 8: 3 bits high index, 1 bit sign of the shift;
// 4 u16: four 3-bit scales l, one per 16 values, and in bits 12-15 a nibble of the f16 d, lowest first.
func iq1m(block []byte, values []float32) {
	low, high, scales := block[:32], block[32:48], block[48:56]
	var d [2]byte
	d[0] = scales[1]>>4 | scales[3]&0xf0
	d[1] = scales[5]>>4 | scales[7]&0xf0
	for group := range 32 {
		h := int(high[group/2] >> (4 * (group % 2)) & 15)
		sub := group / 2
		l := binary.LittleEndian.Uint16(scales[sub/4*2:]) >> (3 * (sub % 4)) & 7
		delta := float32(iq1Delta)
		if h&8 != 0 {
			delta = -delta
		}
		iq1Point(values[8*group:8*group+8], int(low[group])|h&7<<8, half(d[:])*float32(2*l+1), delta)
	}
}
