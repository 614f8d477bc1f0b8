//! tasks TEXTS TASK LIBRARY NAME: what the crate says of each line of TEXTS. Scores as the bits of a float.
use model::{Label, LongText, Model, Options, TaskOptions, Text};

fn labels(row: &[Label]) {
    for label in row {
        print!("{} {} ", label.name, label.score.to_bits() as i32);
    }
}

fn floats(row: &[f32]) {
    for value in row {
        print!("{} ", value.to_bits() as i32);
    }
}

fn windows(max_tokens: i32) -> TaskOptions {
    TaskOptions { long_text: LongText::Windows, max_tokens, stride: 3, ..Default::default() }
}

fn tell(m: &Model, task: &str, text: &str) -> model::Result<()> {
    let cut = TaskOptions { long_text: LongText::Truncate, ..Default::default() };
    let texts = |second: &'static str| [Text::from(text), Text::from(second), Text::from("")];
    match task {
        "classify" => {
            labels(&m.classify(text, &cut)?);
            let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
            let (allow, deny) = (Some(names(&["g\"ood", "bad"])), Some(names(&["bad"])));
            labels(&m.classify(("the", text), &TaskOptions { allow, deny, ..windows(12) })?);
            m.classify_all(&texts("the"), &cut)?.iter().for_each(|row| labels(row));
            let pairs = [Text::from((text, "the")), Text::from("the"), Text::from(("", text))];
            m.classify_all(&pairs, &cut)?.iter().for_each(|row| labels(row));
        }
        "embed" => {
            let (vector, other) = (m.embed(text, &cut)?, m.embed("the model", &Default::default())?);
            floats(&vector);
            floats(&m.embed(text, &windows(12))?);
            m.embed_all(&texts("the model"), &cut)?.iter().for_each(|row| floats(row));
            m.to_int8(&vector).iter().for_each(|value| print!("{} ", value));
            m.to_bits(&vector).iter().for_each(|value| print!("{} ", value));
            let small = m.cosine_of_int8(&m.to_int8(&vector), &m.to_int8(&other));
            let bits = m.cosine_of_bits(&m.to_bits(&vector), &m.to_bits(&other));
            print!("{} {} {}", m.cosine(&vector, &other).to_bits() as i32, small.to_bits() as i32, bits.to_bits() as i32);
        }
        "fill" => {
            let options = TaskOptions { top: 3, ..windows(12) };
            m.fill(&format!("{} [MASK]", text), &options)?.iter().for_each(|row| labels(row));
        }
        "entities" => {
            for e in m.entities(text, &windows(0))? {
                print!("{} {} {}|", e.name, e.score.to_bits() as i32, &text[e.begin..e.end]);
            }
        }
        "answer" => {
            let options = TaskOptions { top: 4, no_answer: true, ..windows(14) };
            for a in m.answer("the model?", text, &options)? {
                assert_eq!(a.text, &text[a.begin..a.end]);
                print!("{} {}|", a.text, a.score.to_bits() as i32);
            }
        }
        _ => {
            let t = m.tokenize((text, text), 20)?;
            for i in 0..t.ids.len() {
                let place = t.begins[i] as usize..t.ends[i] as usize;
                print!("{} {} {} {}|", t.ids[i], t.segments[i], t.texts[i], &text[place]);
            }
            print!("{} {}", t.overflow, m.window(text, 6, 2)?.ids.len());
        }
    }
    println!();
    Ok(())
}

fn failures(m: Model) {
    let allow = Some(vec!["none".to_string()]);
    let mut results = vec![
        m.classify("a ".repeat(200).as_str(), &Default::default()).err(),
        m.embed("the", &Default::default()).err(),
        m.entities("the", &TaskOptions { allow, ..Default::default() }).err(),
        m.run(&[]).err(),
    ];
    m.cancel(true);
    results.push(m.run_text("the").err());
    for result in results {
        println!("{}", result.map_or("none".to_string(), |error| error.code.0.to_string()));
    }
    drop(m);
}

fn main() {
    let given: Vec<String> = std::env::args().collect();
    let m = Model::open_file(&given[3], &Options { threads: 2, ..Default::default() }).unwrap();
    for text in std::fs::read_to_string(&given[1]).unwrap().split_terminator('\n') {
        tell(&m, &given[2], text).unwrap();
    }
    failures(m);
}
