package quant

import "encoding/binary"

func iq3Point(values []float32, point, signs uint32, scale float32) {
	for i := range values {
		values[i] = signed(scale*float32(point>>(8*i)&0xff), signs>>i)
	}
}

// iq3xxs (98 bytes): f16 d; 64 bytes grid index of 4 values; 8 u32: four 7-bit sign codes of 8 values, 4 bits scale.
func iq3xxs(block []byte, values []float32) {
	d, index, codes := half(block), block[2:66], block[66:98]
	for part := range 8 {
		code := binary.LittleEndian.Uint32(codes[4*part:])
		scale := d * (float32(code>>28) + 0.5) * 0.5
		for k := range 8 {
			at := 8*part + k
			signs := signs8(code>>(7*(k/2))) >> (4 * (k % 2))
			iq3Point(values[4*at:4*at+4], iq3xxsGrid[index[at]], signs, scale)
		}
	}
}

// iq3s (110 bytes): f16 d; 64 bytes low index; 8 bytes with the 9th bit of each; 32 bytes of signs; 4 bytes, a nibble of
// scale per 32 values.
func iq3s(block []byte, values []float32) {
	d, low, high, signs, scales := half(block), block[2:66], block[66:74], block[74:106], block[106:110]
	for group := range 64 {
		index := int(low[group]) | int(high[group/8]>>(group%8)&1)<<8
		scale := d * float32(2*nibble(scales, group/8)+1)
		iq3Point(values[4*group:4*group+4], iq3sGrid[index], uint32(signs[group/2]>>(4*(group%2))), scale)
	}
}
