// ask TEXT [OTHER...]: what any model says of a text, as its task has it.
//
// classify: labels of the text, or of it and the other one; entities: what is named in it; fill: what could stand in the
// place of each mask; embed: how near the other texts are to it; answer: what of the other text answers it.
#include <pocketbert.hpp>

#include <cmath>
#include <cstdio>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// The one function of a model's library that is needed; its header <model>.h declares it, too.
extern "C" const pocketbert_functions *MODEL_FUNCTIONS(void);

static void print(float score, std::string_view name) {
  std::printf("%6.2f %%  %.*s\n", 100 * static_cast<double>(score), static_cast<int>(name.size()), name.data());
}

// The cosine of the angle between two vectors.
static double similarity(const std::vector<float> &a, const std::vector<float> &b) {
  double product = 0, squares_a = 0, squares_b = 0;
  for (std::size_t i = 0; i < a.size(); i++) {
    const double x = a[i], y = b[i];
    product += x * y, squares_a += x * x, squares_b += y * y;
  }
  return product / std::sqrt(squares_a * squares_b);
}

int main(int argc, char **argv) try {
  if (argc < 2) {
    std::fprintf(stderr, "usage: ask TEXT [OTHER...]\n");
    return 2;
  }
  const std::string_view text = argv[1];
  pocketbert::Model model(MODEL_FUNCTIONS());
  switch (model.description().task) {
    case POCKETBERT_CLASSIFY: {
      const auto pair = argc > 2 ? std::optional<std::string_view>(argv[2]) : std::nullopt;
      for (const pocketbert::Label &label : model.classify(text, pair)) print(label.score, label.name);
      return 0;
    }
    case POCKETBERT_ENTITIES:
      for (const pocketbert_entity &entity : model.entities(text)) {
        const auto begin = static_cast<std::size_t>(entity.begin), end = static_cast<std::size_t>(entity.end);
        print(entity.score, std::string(entity.name) + ": " + std::string(text.substr(begin, end - begin)));
      }
      return 0;
    case POCKETBERT_FILL: {
      const std::vector<std::vector<pocketbert::Label>> masks = model.fill(text, 5);
      for (std::size_t i = 0; i < masks.size(); i++) {
        std::printf("mask %zu:\n", i + 1);
        for (const pocketbert::Label &piece : masks[i]) print(piece.score, piece.name);
      }
      if (masks.empty()) std::fprintf(stderr, "ask: there is no [MASK] (or <mask>) in the text\n");
      return masks.empty() ? 2 : 0;
    }
    case POCKETBERT_EMBED: {
      const std::vector<float> vector = model.embed(text);
      std::printf("%zu numbers\n", vector.size());
      for (int i = 2; i < argc; i++) std::printf("%6.3f  %s\n", similarity(vector, model.embed(argv[i])), argv[i]);
      return 0;
    }
    case POCKETBERT_ANSWER:
      if (argc < 3) {
        std::fprintf(stderr, "ask: give the question and the text that answers it\n");
        return 2;
      }
      for (const pocketbert::Answer &answer : model.answer(text, argv[2], 3)) print(answer.score, answer.text);
      return 0;
    default:
      std::fprintf(stderr, "ask: the model has no task that this program knows: build a fine-tuned folder\n");
      return 2;
  }
} catch (const std::exception &error) {
  std::fprintf(stderr, "ask: %s\n", error.what());
  return 1;
}
