// Package parallel spreads independent rows over the processors that GOMAXPROCS allows.
package parallel

import (
	"runtime"
	"sync"
)

// Rows calls work on ranges that together cover 0…rows-1 once. A range holds at least grain rows, so that no
// goroutine is started for too little work. Ranges run at the same time and must not depend on one another.
func Rows(rows, grain int, work func(from, to int)) {
	workers := min(runtime.GOMAXPROCS(0), rows/max(grain, 1))
	if workers <= 1 {
		work(0, rows)
		return
	}
	var group sync.WaitGroup
	for worker := range workers {
		from, to := rows*worker/workers, rows*(worker+1)/workers
		group.Add(1)
		go func() {
			defer group.Done()
			work(from, to)
		}()
	}
	group.Wait()
}
