// Command ggufhash prints the sha256 of a tensor as goref dequantises it: little-endian float32.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"

	"conform/goref/internal/fault"
	"conform/goref/internal/gguf"
	"conform/goref/internal/quant"
)

type report struct {
	Tensor string   `json:"tensor"`
	Type   string   `json:"type"`
	Dims   []uint64 `json:"dims"`
	Count  int      `json:"count"`
	SHA256 string   `json:"sha256"`
}

func main() {
	path := flag.String("model", "", "GGUF `file` (required)")
	tensor := flag.String("tensor", "", "`name` of the tensor (required)")
	count := flag.Int("count", 0, "hash the first `n` values only; 0 hashes all")
	flag.Parse()
	if *path == "" || *tensor == "" || *count < 0 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "ggufhash: expected --model, --tensor and a --count of 0 or more")
		os.Exit(2)
	}
	found, err := hash(*path, *tensor, *count)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(found)
	}
	if err != nil {
		log.Fatalf("ggufhash: %s", fault.Line(err))
	}
}

func hash(path, name string, count int) (report, error) {
	file, err := gguf.Open(path)
	if err != nil {
		return report{}, err
	}
	defer file.Close()
	t, found := file.Find(name)
	if !found {
		return report{}, fmt.Errorf("%s: tensor %s is missing", path, name)
	}
	raw, err := file.Read(t, nil)
	if err != nil {
		return report{}, err
	}
	values, err := quant.Decode(t, raw)
	if err != nil {
		return report{}, err
	}
	if count > len(values) {
		return report{}, fmt.Errorf("tensor %s has %d values, %d were asked for", name, len(values), count)
	}
	if count > 0 {
		values = values[:count]
	}
	return report{name, t.Type.String(), t.Dims, len(values), digest(values)}, nil
}

func digest(values []float32) string {
	sum := sha256.New()
	var chunk bytes.Buffer
	for len(values) > 0 {
		n := min(len(values), 1<<16)
		chunk.Reset()
		// Writing to a buffer or to a hash never fails.
		_ = binary.Write(&chunk, binary.LittleEndian, values[:n])
		sum.Write(chunk.Bytes())
		values = values[n:]
	}
	return hex.EncodeToString(sum.Sum(nil))
}
