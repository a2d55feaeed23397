package quant

// Super-blocks of 256 with a scale, and in some types a minimum, for each 16 or 32 values. Low bits of the values come in
// planes: 32 bytes hold 32 values of one plane each, the next plane in the bits above. A product is rounded to float32
// before a minimum is taken from it, so that no machine fuses the two.

// q2k (84 bytes): 16 bytes with scale and minimum of each 16 values, a nibble each; 2-bit values; f16 d, f16 dmin.
func q2k(block []byte, values []float32) {
	scales, low, d, dmin := block[:16], block[16:80], half(block[80:]), half(block[82:])
	for i := range values {
		scale := scales[i/16]
		q := low[i/128*32+i%32] >> (2 * (i / 32 % 4)) & 3
		values[i] = float32(d*float32(scale&15)*float32(q)) - dmin*float32(scale>>4)
	}
}

// q3k (110 bytes): third bits, inverted, eight planes; 2-bit values; 12 bytes of 6-bit scales, biased by 32; f16 d.
func q3k(block []byte, values []float32) {
	high, low, scales, d := block[:32], block[32:96], block[96:108], half(block[108:])
	for i := range values {
		part := i / 16
		scale := int(scales[part%8]>>(4*(part/8))&15) | int(scales[8+part%4]>>(2*(part/4))&3)<<4
		q := int(low[i/128*32+i%32] >> (2 * (i / 32 % 4)) & 3)
		if high[i%32]>>(i/32)&1 == 0 {
			q -= 4
		}
		values[i] = d * float32(scale-32) * float32(q)
	}
}

// q4k (144 bytes): f16 d, f16 dmin; 12 bytes of scales and minima; 4-bit values.
func q4k(block []byte, values []float32) {
	d, dmin, packed, low := half(block), half(block[2:]), block[4:16], block[16:144]
	for part := range 8 {
		scale, minimum := scaleAndMinimum(packed, part)
		q32(values[32*part:], d*float32(scale), dmin*float32(minimum), func(i int) byte {
			return low[part/2*32+i] >> (4 * (part % 2)) & 15
		})
	}
}

// q5k (176 bytes): f16 d, f16 dmin; 12 bytes of scales and minima; fifth bits in eight planes; 4-bit values.
func q5k(block []byte, values []float32) {
	d, dmin, packed, fifth, low := half(block), half(block[2:]), block[4:16], block[16:48], block[48:176]
	for part := range 8 {
		scale, minimum := scaleAndMinimum(packed, part)
		q32(values[32*part:], d*float32(scale), dmin*float32(minimum), func(i int) byte {
			return low[part/2*32+i]>>(4*(part%2))&15 | fifth[i]>>part&1<<4
		})
	}
}

// q6k (210 bytes): low nibbles, two planes for each 64 bytes; high 2 bits, four planes for each 32; 16 int8 scales; f16 d.
func q6k(block []byte, values []float32) {
	low, high, scales, d := block[:128], block[128:192], block[192:208], half(block[208:])
	for i := range values {
		q := low[i/128*64+i%64]>>(4*(i/64%2))&15 | high[i/128*32+i%32]>>(2*(i/32%4))&3<<4
		values[i] = d * float32(int8(scales[i/16])) * float32(int(q)-32)
	}
}

func q32(values []float32, d, m float32, q func(i int) byte) {
	for i := range 32 {
		values[i] = float32(d*float32(q(i))) - m
	}
}

// scaleAndMinimum reads two 6-bit numbers of 12 bytes: those of parts 0 to 3 are the low bits of bytes 0 to 7; those of
// parts 4 to 7 are nibbles of bytes 8 to 11, with the two bits above in the high bits of bytes 0 to 7.
func scaleAndMinimum(packed []byte, part int) (byte, byte) {
	if part < 4 {
		return packed[part] & 63, packed[part+4] & 63
	}
	part -= 4
	return packed[part+8]&15 | packed[part]>>6<<4, packed[part+8]>>4 | packed[part+4]>>6<<4
}
