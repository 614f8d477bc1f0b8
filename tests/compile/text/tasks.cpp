// tasks TEXTS TASK LIBRARY NAME: what pocketbert.hpp says of each line of TEXTS. Scores as the bits of a float.
#include <pocketbert.hpp>

#include <cstring>
#include <fstream>
#include <iostream>

using namespace pocketbert;

static std::int32_t bits(float value) {
  std::int32_t result;
  std::memcpy(&result, &value, sizeof result);
  return result;
}

static void print(const std::vector<Label> &labels) {
  for (const Label &label : labels) std::cout << label.name << ' ' << bits(label.score) << ' ';
}

static TaskOptions in_windows(std::int32_t max_tokens) {
  TaskOptions options;
  options.long_text = LongText::windows;
  options.max_tokens = max_tokens;
  options.stride = 3;
  return options;
}

static void print(const std::vector<float> &vector) {
  for (const float value : vector) std::cout << bits(value) << ' ';
}

static void print(Model &model, const std::string &task, const std::string &text) {
  TaskOptions cut;
  cut.long_text = LongText::truncate;
  if (task == "classify") {
    print(model.classify(text, {}, cut));
    TaskOptions some = in_windows(12);
    some.allow = {"g\"ood", "bad"};
    some.deny = {"bad"};
    print(model.classify("the", text, some));
    for (const std::vector<Label> &labels : model.classify_all({text, "the", ""}, cut)) print(labels);
    for (const std::vector<Label> &labels : model.classify_all({{text, "the"}, "the", {"", text}}, cut)) print(labels);
  }
  if (task == "embed") {
    const std::vector<float> vector = model.embed(text, cut);
    print(vector);
    print(model.embed(text, in_windows(12)));
    print(model.embed_all({text, "the model", ""}, cut));
    for (const std::int8_t value : model.to_int8(vector)) std::cout << int{value} << ' ';
    for (const std::uint8_t value : model.to_bits(vector)) std::cout << int{value} << ' ';
    const std::vector<float> other = model.embed("the model");
    std::cout << bits(model.cosine(vector, other)) << ' ' << bits(model.cosine(model.to_int8(vector), model.to_int8(other)))
              << ' ' << bits(model.cosine(model.to_bits(vector), model.to_bits(other)));
  }
  if (task == "fill")
    for (const std::vector<Label> &pieces : model.fill(text + " [MASK]", 3, in_windows(12))) print(pieces);
  if (task == "entities")
    for (const pocketbert_entity &entity : model.entities(text, in_windows(0)))
      std::cout << entity.name << ' ' << bits(entity.score) << ' '
                << text.substr(static_cast<std::size_t>(entity.begin),
                               static_cast<std::size_t>(entity.end - entity.begin))
                << '|';
  if (task == "answer") {
    TaskOptions options = in_windows(14);
    options.no_answer = true;
    for (const Answer &answer : model.answer("the model?", text, 4, options))
      std::cout << answer.text << ' ' << bits(answer.score) << '|';
  }
  if (task == "encode") {
    const Tokens tokens = model.tokenize(text, text, 20);
    for (std::size_t i = 0; i < tokens.ids.size(); i++)
      std::cout << tokens.ids[i] << ' ' << tokens.segments[i] << ' ' << int{tokens.texts[i]} << ' '
                << text.substr(static_cast<std::size_t>(tokens.begins[i]),
                               static_cast<std::size_t>(tokens.ends[i] - tokens.begins[i]))
                << '|';
    std::cout << tokens.overflow << ' ' << model.window(text, {}, 2, 6).ids.size();
  }
  std::cout << '\n';
}

int main(int, char **argv) {
  const Library library = Library::from_path(argv[3], argv[4]);
  Model model(library.functions());
  std::ifstream texts(argv[1]);
  for (std::string text; std::getline(texts, text);) print(model, argv[2], text);
  std::cout << model.description().facts << "\n";
}
