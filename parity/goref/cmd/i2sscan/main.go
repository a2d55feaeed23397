// Command i2sscan counts the 2-bit codes of an I2_S tensor: i2sscan MODEL TENSOR.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"

	"conform/goref/internal/fault"
	"conform/goref/internal/gguf"
	"conform/goref/internal/quant"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "i2sscan: expected MODEL TENSOR")
		os.Exit(2)
	}
	counts, err := scan(os.Args[1], os.Args[2])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(counts)
	}
	if err != nil {
		log.Fatalf("i2sscan: %s", fault.Line(err))
	}
}

func scan(path, name string) (map[string]uint64, error) {
	file, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	t, found := file.Find(name)
	if !found || t.Type != gguf.I2S {
		return nil, fmt.Errorf("%s: there is no I2_S tensor %s", path, name)
	}
	raw, err := file.Read(t, nil)
	if err != nil {
		return nil, err
	}
	counts := map[string]uint64{}
	for code, n := range quant.CountCodes(t, raw) {
		counts[fmt.Sprint(code)] = n
	}
	return counts, nil
}
