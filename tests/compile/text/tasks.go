// tasks TEXTS TASK LIBRARY NAME: what the Go module says of each line of TEXTS. Scores as the bits of a float.
package main

import (
	"bufio"
	"fmt"
	"math"
	"os"

	"model"
)

func bits(value float32) int32 { return int32(math.Float32bits(value)) }

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func labels(rows ...[]model.Label) {
	for _, row := range rows {
		for _, label := range row {
			fmt.Printf("%s %d ", label.Name, bits(label.Score))
		}
	}
}

func floats(rows ...[]float32) {
	for _, row := range rows {
		for _, value := range row {
			fmt.Printf("%d ", bits(value))
		}
	}
}

func tell(m *model.Model, task, text string) {
	cut := &model.TaskOptions{LongText: model.Truncate}
	windows := func(maxTokens int) *model.TaskOptions {
		return &model.TaskOptions{LongText: model.Windows, MaxTokens: maxTokens, Stride: 3}
	}
	switch task {
	case "classify":
		all, err := m.Classify(text, cut)
		check(err)
		options := windows(12)
		options.Allow, options.Deny = []string{"g\"ood", "bad"}, []string{"bad"}
		some, err := m.ClassifyPair("the", text, options)
		check(err)
		every, err := m.ClassifyAll([]model.Text{{Text: text}, {Text: "the"}, {Text: ""}}, cut)
		check(err)
		the := "the"
		pairs, err := m.ClassifyAll([]model.Text{{Text: text, Pair: &the}, {Text: "the"}, {Text: "", Pair: &text}}, cut)
		check(err)
		labels(all, some)
		labels(append(every, pairs...)...)
	case "embed":
		vector, err := m.Embed(text, cut)
		check(err)
		other, err := m.Embed("the model", nil)
		check(err)
		wide, err := m.Embed(text, windows(12))
		check(err)
		every, err := m.EmbedAll([]model.Text{{Text: text}, {Text: "the model"}, {Text: ""}}, cut)
		check(err)
		floats(vector, wide)
		floats(every...)
		for _, value := range m.ToInt8(vector) {
			fmt.Printf("%d ", value)
		}
		for _, value := range m.ToBits(vector) {
			fmt.Printf("%d ", value)
		}
		fmt.Print(bits(m.Cosine(vector, other)), bits(m.CosineOfInt8(m.ToInt8(vector), m.ToInt8(other))))
		fmt.Print(" ", bits(m.CosineOfBits(m.ToBits(vector), m.ToBits(other))))
	case "fill":
		options := windows(12)
		options.Top = 3
		masks, err := m.Fill(text+" [MASK]", options)
		check(err)
		labels(masks...)
	case "entities":
		found, err := m.Entities(text, windows(0))
		check(err)
		for _, entity := range found {
			fmt.Printf("%s %d %s|", entity.Name, bits(entity.Score), text[entity.Begin:entity.End])
		}
	case "answer":
		options := windows(14)
		options.Top, options.NoAnswer = 4, true
		answers, err := m.Answer("the model?", text, options)
		check(err)
		for _, answer := range answers {
			fmt.Printf("%s %d|", answer.Text, bits(answer.Score))
		}
	case "encode":
		t, err := m.Tokenize(model.Text{Text: text, Pair: &text}, 20)
		check(err)
		for i := range t.Ids {
			fmt.Printf("%d %d %d %s|", t.Ids[i], t.Segments[i], t.Texts[i], text[t.Begins[i]:t.Ends[i]])
		}
		window, err := m.Window(model.Text{Text: text}, 6, 2)
		check(err)
		fmt.Print(t.Overflow, " ", len(window.Ids))
	}
	fmt.Println()
}

// failures are what goes wrong with words, one a line: the code of each.
func failures(m *model.Model, task string) {
	long := ""
	for i := 0; i < 200; i++ {
		long += "a "
	}
	tries := []func() error{
		func() error { _, err := m.Classify(long, nil); return err },
		func() error { _, err := m.Embed("the", nil); return err },
		func() error { _, err := m.Entities("the", &model.TaskOptions{Allow: []string{"none"}}); return err },
		func() error { _, err := m.Run(nil); return err },
		func() error {
			m.Cancel(true)
			_, err := m.RunText(model.Text{Text: "the"})
			m.Cancel(false)
			return err
		},
		func() error { m.Close(); m.Close(); _, err := m.RunText(model.Text{Text: "the"}); return err },
	}
	for _, try := range tries {
		if err := try(); err == nil {
			fmt.Println("none")
		} else {
			fmt.Println(err.(*model.Error).Code)
		}
	}
}

func main() {
	m, err := model.OpenFile(os.Args[3], model.Options{Threads: 2})
	check(err)
	file, err := os.Open(os.Args[1])
	check(err)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		tell(m, os.Args[2], lines.Text())
	}
	failures(m, os.Args[2])
}
