// checks COMMAND LIBRARY NAME ...: the C++ interface against what the tests expect of it.
//   samples THREADS SAMPLES RESULTS    as samples.c
//   text TEXTS RESULTS                 a line of ids for each line of TEXTS (a pair has a tab); the outputs to RESULTS
//   mistakes                           a line for each: what was thrown
#include <pocketbert.hpp>

#include <sanitizer/asan_interface.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <functional>
#include <iostream>
#include <sstream>

using namespace pocketbert;

struct Buffers {
  std::vector<std::vector<char>> memory;
  std::vector<pocketbert_tensor> tensors;

  Buffers(Span<const pocketbert_info> infos, std::int64_t tokens) {
    for (const pocketbert_info &info : infos) {
      memory.emplace_back(info.bytes);
      tensors.push_back({memory.back().data(), info.type, info.rank, {}});
      for (std::int32_t i = 0; i < info.rank; i++)
        tensors.back().shape[i] = i == info.token_axis ? tokens : info.shape[i];
      memory.back().resize(detail::bytes(tensors.back()));
    }
  }
  void read(std::istream &stream) {
    for (std::vector<char> &bytes : memory) stream.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  void write(std::ostream &stream) const {
    for (std::size_t i = 0; i < memory.size(); i++)
      stream.write(memory[i].data(), static_cast<std::streamsize>(detail::bytes(tensors[i])));
  }
};

static void samples(const pocketbert_functions *functions, int threads, const char *from, const char *to) {
  Options options;
  options.threads = threads;
  Model first(functions, options), model(std::move(first));
  std::ifstream in(from, std::ios::binary);
  std::ofstream out(to, std::ios::binary);
  std::int64_t tokens = 0;
  while (in.read(reinterpret_cast<char *>(&tokens), sizeof tokens)) {
    Buffers inputs(model.inputs(), tokens), outputs(model.outputs(), tokens);
    inputs.read(in);
    model.run(inputs.tensors, outputs.tensors);
    outputs.write(out);
  }
}

static_assert(Options{}.threads == 0 && Options{}.cores == 0 && !Options{}.profile, "what C chooses by itself");

static decltype(pocketbert_functions::encode) encode;

// The library's own code is not watched: are there as many elements as it is told that there are?
static std::int32_t encode_where_there_is_room(const char *text, std::size_t bytes, const char *pair,
                                               std::size_t pair_bytes, pocketbert_tokens *tokens) {
  const std::size_t most = static_cast<std::size_t>(tokens->max_tokens);
  for (std::int64_t *each : {tokens->ids, tokens->segments, tokens->begins, tokens->ends})
    if (__asan_region_is_poisoned(each, most * sizeof *each)) throw 4;
  if (__asan_region_is_poisoned(tokens->texts, most)) throw 5;
  if (__asan_region_is_poisoned(tokens->words, most * sizeof *tokens->words)) throw 6;
  return encode(text, bytes, pair, pair_bytes, tokens);
}

static void text(const pocketbert_functions *given, const char *from, const char *to) {
  pocketbert_functions functions = *given;
  encode = std::exchange(functions.encode, encode_where_there_is_room);
  Model model(&functions);
  std::ifstream in(from, std::ios::binary);
  std::ofstream out(to, std::ios::binary);
  for (std::string line; std::getline(in, line);) {
    const std::size_t tab = line.find('\t');
    const std::string_view whole = line, one = whole.substr(0, tab);
    const std::optional<std::string_view> pair =
        tab == line.npos ? std::optional<std::string_view>() : whole.substr(tab + 1);
    const Tokens tokens = model.tokenize(one, pair);
    const Tokens window = model.window(one, pair, 0);  // which holds all of a text that fits
    if (window.ids != tokens.ids || window.words != tokens.words || window.overflow != 0) throw 2;
    const Tokens exact = model.tokenize(one, pair, static_cast<std::int32_t>(tokens.ids.size()));
    if (exact.ids != tokens.ids || exact.ends != tokens.ends || exact.overflow != 0) throw 3;
    for (const std::int64_t id : tokens.ids) std::cout << id << ' ' << model.token(id) << ' ';
    std::cout << '\n';
    Buffers outputs(model.outputs(), model.description().tokens);
    if (model.run_text(one, outputs.tensors, pair) != static_cast<std::int32_t>(tokens.ids.size())) throw 1;
    outputs.write(out);
  }
}

static void attempt(const char *what, const std::function<void()> &mistake) {
  try {
    mistake();
    std::cout << what << ": nothing\n";
  } catch (const Error &error) {
    std::cout << what << ": " << error.code() << ": " << error.what() << '\n';
  }
}

static void mistakes(const pocketbert_functions *functions, const char *path, const std::string &name) {
  Model model(functions);
  const int n = model.description().tokens;
  std::vector<std::int64_t> ids(static_cast<std::size_t>(n)), mask(ids.size(), 1);
  std::array<float, 3> three{};
  const std::vector<std::int64_t> constant(ids);
  Buffers outputs(model.outputs(), n);
  std::initializer_list<pocketbert_tensor> right = {input(ids, 1, n), input(mask, 1, n), input(constant, 1, n)};
  attempt("right", [&] { model.run(right, outputs.tensors); });
  attempt("few inputs", [&] { model.run({input(ids, 1, n)}, outputs.tensors); });
  attempt("shape of other elements", [&] { input(ids, 1, n + 1); });
  attempt("output of another size", [&] { output(three, model.outputs()[0]); });
  std::vector<float> whole(model.outputs()[0].bytes / sizeof(float));
  attempt("output of its size", [&] { output(whole, model.outputs()[0]); });
  attempt("wrong shape", [&] { model.run({input(ids, n, 1), input(mask, 1, n), input(ids, 1, n)}, outputs.tensors); });
  ids[0] = -1;
  attempt("wrong id", [&] { model.run({input(ids, 1, n), input(mask, 1, n), input(mask, 1, n)}, outputs.tensors); });
  attempt("wrong threads", [&] { Model(functions, Options{65, 0, false}); });
  attempt("no profile", [&] { model.profile(); });
  attempt("no room", [&] {
    pocketbert_tensor small[] = {output(three, 1, 1, 3), output(three, 1, 3)};
    model.run_text("a", small);
  });
  attempt("no outputs", [&] {
    std::vector<pocketbert_tensor> none;
    model.run_text("a", none);
  });
  attempt("no tokens", [&] { model.tokenize("a", {}, 1); });
  attempt("no piece", [&] { if (model.token(-1).empty() && model.token(1ll << 40).empty()) throw Error(0, "empty"); });
  attempt("no library", [&] { Library::from_path("nowhere.so", name); });
  attempt("another name", [&] { Library::from_path(path, "other"); });
  pocketbert_functions later = *functions;
  later.abi_version++;
  attempt("another ABI", [&] { Model{&later}; });
  Model moved(std::move(model));
  attempt("moved from", [&] { model.run(right, outputs.tensors); });
  model = Model(functions);
  attempt("assigned", [&] { model.run_text("a", outputs.tensors); });
  const auto run_text = [&] {
    Buffers fresh(model.outputs(), n);
    model.run_text("a", fresh.tensors);
  };
  std::cout.flush();
  if (const pid_t child = fork(); child == 0) {
    attempt("inherited", run_text);
    model = Model(functions);  // closes the inherited one
    attempt("its own", run_text);
    std::cout.flush();
    _exit(0);
  } else {
    waitpid(child, nullptr, 0);
  }
  attempt("the parent's", run_text);
}

int main(int argc, char **argv) {
  const std::vector<std::string> arguments(argv, argv + argc);
  std::ifstream file(argv[2], std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  const Library library = Library::from_memory(bytes.str().data(), bytes.str().size(), arguments.at(3));
  if (arguments[1] == "samples")
    samples(library.functions(), std::stoi(arguments.at(4)), argv[5], argv[6]);
  else if (arguments[1] == "text")
    text(library.functions(), argv[4], argv[5]);
  else
    mistakes(library.functions(), argv[2], arguments[3]);
  return 0;
}
