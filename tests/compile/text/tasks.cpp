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

static void print(Model &model, const std::string &task, const std::string &text) {
  if (task == "classify") print(model.classify(text));
  if (task == "embed")
    for (const float value : model.embed(text)) std::cout << bits(value) << ' ';
  if (task == "fill")
    for (const std::vector<Label> &pieces : model.fill(text + " [MASK]", 3)) print(pieces);
  if (task == "entities")
    for (const pocketbert_entity &entity : model.entities(text))
      std::cout << entity.name << ' ' << bits(entity.score) << ' '
                << text.substr(static_cast<std::size_t>(entity.begin),
                               static_cast<std::size_t>(entity.end - entity.begin))
                << '|';
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
}
