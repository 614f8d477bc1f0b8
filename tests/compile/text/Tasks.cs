// Tasks TEXTS TASK LIBRARY NAME: what the assembly says of each line of TEXTS. Scores as the bits of a float.
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text;
using ModelLibrary;

static class Tasks
{
    static readonly TextWriter Out = new StreamWriter(Console.OpenStandardOutput(), new UTF8Encoding(false));

    static int Bits(float value) => BitConverter.ToInt32(BitConverter.GetBytes(value), 0);

    static void Print(params IEnumerable<Label>[] rows)
    {
        foreach (var label in rows.SelectMany(row => row)) Out.Write($"{label.Name} {Bits(label.Score)} ");
    }

    static void Print(params float[][] rows)
    {
        foreach (float value in rows.SelectMany(row => row)) Out.Write($"{Bits(value)} ");
    }

    static TaskOptions Windows(int maxTokens) =>
        new TaskOptions { LongText = LongText.Windows, MaxTokens = maxTokens, Stride = 3 };

    static void Tell(Model m, string task, string text)
    {
        var cut = new TaskOptions { LongText = LongText.Truncate };
        TaskOptions options;
        switch (task) {
        case "classify":
            Print(m.Classify(text, options: cut));
            options = Windows(12);
            options.Allow = new[] { "g\"ood", "bad" };
            options.Deny = new[] { "bad" };
            Print(m.Classify("the", text, options));
            Print(m.ClassifyAll(new Text[] { text, "the", "" }, cut).ToArray());
            Print(m.ClassifyAll(new Text[] { new Text(text, "the"), "the", new Text("", text) }, cut).ToArray());
            break;
        case "embed":
            float[] vector = m.Embed(text, cut), other = m.Embed("the model");
            Print(vector, m.Embed(text, Windows(12)));
            Print(m.EmbedAll(new Text[] { text, "the model", "" }, cut));
            foreach (var value in m.ToInt8(vector)) Out.Write($"{value} ");
            foreach (var value in m.ToBits(vector)) Out.Write($"{value} ");
            Out.Write($"{Bits(m.Cosine(vector, other))} {Bits(m.Cosine(m.ToInt8(vector), m.ToInt8(other)))} ");
            Out.Write(Bits(m.Cosine(m.ToBits(vector), m.ToBits(other))));
            break;
        case "fill":
            options = Windows(12);
            options.Top = 3;
            Print(m.Fill(text + " [MASK]", options).ToArray());
            break;
        case "entities":
            foreach (var e in m.Entities(text, Windows(0)))
                Out.Write($"{e.Name} {Bits(e.Score)} {text.Substring(e.Begin, e.End - e.Begin)}|");
            break;
        case "answer":
            options = Windows(14);
            options.Top = 4;
            options.NoAnswer = true;
            foreach (var answer in m.Answer("the model?", text, options)) Out.Write($"{answer.Text} {Bits(answer.Score)}|");
            break;
        default:
            var t = m.Tokenize(text, text, 20);
            for (int i = 0; i < t.Ids.Length; i++)
                Out.Write($"{t.Ids[i]} {t.Segments[i]} {t.Texts[i]} {text.Substring((int)t.Begins[i], (int)(t.Ends[i] - t.Begins[i]))}|");
            Out.Write($"{t.Overflow} {m.Window(text, null, 6, 2).Ids.Length}");
            break;
        }
        Out.WriteLine();
    }

    static string Failure(Action action)
    {
        try {
            action();
            return "none";
        } catch (ModelException error) {
            return ((int)error.Code).ToString();
        } catch (ObjectDisposedException) {
            return "disposed";
        }
    }

    static void Failures(Model m)
    {
        Out.WriteLine(Failure(() => m.Classify(string.Concat(Enumerable.Repeat("a ", 200)))));
        Out.WriteLine(Failure(() => m.Embed("the")));
        Out.WriteLine(Failure(() => m.Entities("the", new TaskOptions { Allow = new[] { "none" } })));
        Out.WriteLine(Failure(() => m.Run()));
        m.Cancel(true);
        Out.WriteLine(Failure(() => m.RunText("the")));
        m.Cancel(false);
        m.Dispose();
        m.Dispose();
        Out.WriteLine(Failure(() => m.RunText("the")));
    }

    static void Main(string[] args)
    {
        var m = new Model(new Options { Threads = 2 });
        foreach (string text in File.ReadAllText(args[0]).Split('\n').Reverse().Skip(1).Reverse()) Tell(m, args[1], text);
        Failures(m);
        Out.Flush();
    }
}
