package main

import (
	"container/heap"
	"time"
)

// queue holds what is still to happen, and the time. Events of the same time happen in the order in which they were
// planned, so that a run can be repeated.
type queue struct {
	now     time.Duration
	planned events
	count   int
}

type event struct {
	at     time.Duration
	number int
	happen func()
}

// after plans what happens later.
func (q *queue) after(d time.Duration, happen func()) {
	q.count++
	heap.Push(&q.planned, event{q.now + d, q.count, happen})
}

// run lets everything happen, and returns when nothing is planned any more.
func (q *queue) run() {
	for len(q.planned) > 0 {
		next := heap.Pop(&q.planned).(event)
		q.now = next.at
		next.happen()
	}
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].number < e[j].number
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}
