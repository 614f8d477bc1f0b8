// top_tokens TEXT [COUNT]: what a masked language model puts in the place of each [MASK] in TEXT.
#include <mobilebert_mlm.h>
#include <pocketbert.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <numeric>
#include <string>
#include <vector>

// The most likely tokens by their logits, with their probabilities.
static void print_top(const pocketbert::Model &model, pocketbert::Span<const float> logits, std::size_t count) {
  std::vector<std::size_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  count = std::min(count, ids.size());
  const auto larger = [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; };
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count), ids.end(), larger);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - logits[ids[0]]));
  for (std::size_t i = 0; i < count; i++) {
    const std::string token(model.token(static_cast<std::int64_t>(ids[i])));
    std::printf("%6.2f %%  %s\n", 100 * std::exp(static_cast<double>(logits[ids[i]] - logits[ids[0]])) / sum, token.c_str());
  }
}

int main(int argc, char **argv) try {
  if (argc < 2) {
    std::fprintf(stderr, "usage: top_tokens TEXT [COUNT], with [MASK] in the text\n");
    return 2;
  }
  const std::size_t count = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 5;

  pocketbert::Model model(mobilebert_mlm_functions());
  std::vector<std::vector<float>> buffers;
  std::vector<pocketbert_tensor> outputs;
  for (const pocketbert_info &info : model.outputs()) {
    buffers.emplace_back(info.bytes / sizeof(float));
    outputs.push_back(pocketbert::output(buffers.back(), info));
  }
  model.run_text(argv[1], outputs);
  const std::vector<float> &logits = buffers[0];  // (1, tokens, vocabulary)
  const std::size_t vocabulary = static_cast<std::size_t>(outputs[0].shape[2]);

  const pocketbert::Tokens tokens = model.tokenize(argv[1]);
  bool found = false;
  for (std::size_t i = 0; i < tokens.ids.size(); i++) {
    if (model.token(tokens.ids[i]) != "[MASK]") continue;
    std::printf("token %zu:\n", i);
    print_top(model, {&logits[i * vocabulary], vocabulary}, count);
    found = true;
  }
  if (!found) {
    std::fprintf(stderr, "top_tokens: no [MASK] in the first %d tokens of the text\n", model.description().tokens);
    return 2;
  }
  return 0;
} catch (const std::exception &error) {
  std::fprintf(stderr, "top_tokens: %s\n", error.what());
  return 1;
}
