// Package gguf reads GGUF files of version 2 and 3; it trusts no count, offset or length in them.
package gguf

import (
	"fmt"
	"io"
	"os"
)

const (
	magic           = 0x46554747 // "GGUF"
	magicBigEndian  = 0x47475546
	alignmentKey    = "general.alignment"
	defaultAlign    = 32
	layoutKey       = "conform.i2_s.layout"
	readLayout      = "x86"
	maxKeys         = 1 << 16
	maxTensors      = 1 << 16
	smallestKey     = 8 + 4 + 1         // length, type, one byte of value
	smallestTensor  = 8 + 4 + 8 + 4 + 8 // length, dimensions, one dimension, type, offset
	largestAlign    = 1 << 20
	smallestAlign   = 8
	oldestSupported = 2
	newestSupported = 3
)

// Header is everything before the tensor data.
type Header struct {
	Version   uint32
	Alignment uint64
	Metadata  Metadata
	Tensors   []Tensor
}

// File is an open GGUF file.
type File struct {
	Header
	Path string
	file *os.File
}

// Open reads the header. The caller closes the file.
func Open(path string) (*File, error) {
	// Checked before opening, because opening a named pipe would block forever.
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	header, err := Parse(file, uint64(info.Size()))
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &File{Header: *header, Path: path, file: file}, nil
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// Find returns the tensor of that name.
func (f *File) Find(name string) (Tensor, bool) {
	for _, t := range f.Tensors {
		if t.Name == name {
			return t, true
		}
	}
	return Tensor{}, false
}

// Read returns the packed bytes of a tensor, in the buffer if they fit.
func (f *File) Read(t Tensor, buffer []byte) ([]byte, error) {
	if uint64(cap(buffer)) < t.Bytes {
		buffer = make([]byte, t.Bytes)
	}
	raw := buffer[:t.Bytes]
	if _, err := f.file.ReadAt(raw, int64(t.Offset)); err != nil {
		return nil, fmt.Errorf("tensor %s cannot be read: %w", t.Name, err)
	}
	return raw, nil
}

// Parse reads a header from source, which holds size bytes in total.
func Parse(source io.Reader, size uint64) (*Header, error) {
	c := newCursor(source, size)
	header := &Header{Metadata: Metadata{}}
	keys, tensors, err := readPreamble(c, header)
	if err != nil {
		return nil, err
	}
	for range keys {
		if err := readPair(c, header.Metadata); err != nil {
			return nil, err
		}
	}
	if header.Alignment, err = alignmentOf(header.Metadata); err != nil {
		return nil, err
	}
	if err := readTensors(c, header, tensors); err != nil {
		return nil, err
	}
	if err := header.checkI2SLayout(); err != nil {
		return nil, err
	}
	start := (c.pos + header.Alignment - 1) / header.Alignment * header.Alignment
	return header, place(header.Tensors, start, size, header.Alignment)
}

func readPreamble(c *cursor, header *Header) (keys, tensors uint64, err error) {
	mark, err := c.u32("magic number")
	if err != nil {
		return 0, 0, err
	}
	if mark == magicBigEndian {
		return 0, 0, fmt.Errorf("a big-endian GGUF file; only little-endian ones are read")
	}
	if mark != magic {
		return 0, 0, fmt.Errorf("not a GGUF file: it starts with %08x", mark)
	}
	if header.Version, err = c.u32("version"); err != nil {
		return 0, 0, err
	}
	if header.Version < oldestSupported || header.Version > newestSupported {
		return 0, 0, fmt.Errorf("GGUF version %d, expected 2 or 3", header.Version)
	}
	if tensors, err = c.u64("tensor count"); err != nil {
		return 0, 0, err
	}
	if keys, err = c.u64("key count"); err != nil {
		return 0, 0, err
	}
	if tensors > maxTensors || keys > maxKeys {
		return 0, 0, fmt.Errorf("%d tensors and %d keys, at most %d and %d are accepted", tensors, keys, maxTensors, maxKeys)
	}
	if err := c.need(keys, smallestKey, "metadata"); err != nil {
		return 0, 0, err
	}
	return keys, tensors, c.need(tensors, smallestTensor, "tensor table")
}

func readPair(c *cursor, metadata Metadata) error {
	key, err := c.text(maxName, "a key")
	if err != nil {
		return err
	}
	if key == "" || metadata.Has(key) {
		return fmt.Errorf("key %q is empty or occurs twice", key)
	}
	metadata[key], err = readValue(c, key)
	return err
}

func alignmentOf(metadata Metadata) (uint64, error) {
	if !metadata.Has(alignmentKey) {
		return defaultAlign, nil
	}
	alignment, err := lookup[uint32](metadata, alignmentKey, "a u32")
	if err != nil {
		return 0, err
	}
	if alignment < smallestAlign || alignment > largestAlign || alignment&(alignment-1) != 0 {
		return 0, fmt.Errorf("%s = %d, expected a power of two from %d to %d", alignmentKey, alignment, smallestAlign, largestAlign)
	}
	return uint64(alignment), nil
}

func readTensors(c *cursor, header *Header, count uint64) error {
	seen := make(map[string]bool, count)
	for range count {
		tensor, err := readTensor(c)
		if err != nil {
			return err
		}
		if tensor.Name == "" || seen[tensor.Name] {
			return fmt.Errorf("tensor name %q is empty or occurs twice", tensor.Name)
		}
		seen[tensor.Name] = true
		header.Tensors = append(header.Tensors, tensor)
	}
	return nil
}

// checkI2SLayout: three layouts share the type id of I2_S; a file that names its layout must name the one read here.
func (h *Header) checkI2SLayout() error {
	layout, said := h.Metadata[layoutKey]
	for _, t := range h.Tensors {
		if said && t.Type == I2S && layout != readLayout {
			return fmt.Errorf("tensor %s: %s is %v; only %s is read", t.Name, layoutKey, layout, readLayout)
		}
	}
	return nil
}
