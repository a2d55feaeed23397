package quant

import "encoding/binary"

// Byte j holds value j in its low nibble and value j+16 in its high one.
func iq4Values(packed []byte, values []float32, scale float32) {
	for j, b := range packed[:16] {
		values[j] = scale * float32(iq4Levels[b&15])
		values[j+16] = scale * float32(iq4Levels[b>>4])
	}
}

// iq4nl (18 bytes): f16 d; 16 bytes of nibbles.
func iq4nl(block []byte, values []float32) { iq4Values(block[2:], values, half(block)) }

// iq4xs (136 bytes): f16 d; u16 high 2 bits and 4 bytes low 4 bits of the scale of each 32 values, biased by 32; nibbles.
func iq4xs(block []byte, values []float32) {
	d, high, low, packed := half(block), binary.LittleEndian.Uint16(block[2:]), block[4:8], block[8:136]
	for part := range 8 {
		scale := int(nibble(low, part)) | int(high>>(2*part)&3)<<4
		iq4Values(packed[16*part:], values[32*part:32*part+32], d*float32(scale-32))
	}
}
