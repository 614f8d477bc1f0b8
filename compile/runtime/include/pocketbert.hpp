/* Compiled models from C++17. Header only, no dependency; what goes wrong is thrown.
 *
 *     #include <mobilebert.h>
 *     #include <pocketbert.hpp>
 *
 *     pocketbert::Model model(mobilebert_functions());
 *     std::vector<std::int64_t> ids = {...}, mask(n, 1), segments(n, 0);
 *     std::vector<float> hidden(n * 512), pooled(512);
 *     model.run({pocketbert::input(ids, 1, n), pocketbert::input(mask, 1, n), pocketbert::input(segments, 1, n)},
 *               {pocketbert::output(hidden, 1, n, 512), pocketbert::output(pooled, 1, 512)});
 *
 * Tensors are views: nothing is copied. pocketbert.h says what threads may do.
 */
#ifndef POCKETBERT_HPP
#define POCKETBERT_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "pocketbert_loader.h"

namespace pocketbert {

/* `code` is one of POCKETBERT_ERROR_*. */
class Error : public std::runtime_error {
 public:
  Error(std::int32_t code, const std::string &message) : std::runtime_error(message), code_(code) {}
  std::int32_t code() const noexcept { return code_; }

 private:
  std::int32_t code_;
};

/* Contiguous elements that belong to somebody else, as C++20's std::span. */
template <class T>
class Span {
 public:
  constexpr Span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
  constexpr Span(std::initializer_list<std::remove_const_t<T>> list) noexcept : Span(list.begin(), list.size()) {}
  template <class Container, class = std::enable_if_t<
                                 std::is_convertible_v<decltype(std::data(std::declval<Container &>())), T *>>>
  constexpr Span(Container &&container) noexcept : data_(std::data(container)), size_(std::size(container)) {}

  constexpr T *data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr T *begin() const noexcept { return data_; }
  constexpr T *end() const noexcept { return data_ + size_; }
  constexpr T &operator[](std::size_t index) const noexcept { return data_[index]; }

 private:
  T *data_;
  std::size_t size_;
};

namespace detail {

template <class T>
constexpr std::int32_t element_type() {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, bool> ||
                    (std::is_integral_v<T> && std::is_signed_v<T> && (sizeof(T) == 4 || sizeof(T) == 8)),
                "a tensor holds float, std::int64_t, std::int32_t or bool");
  return std::is_same_v<T, float>  ? POCKETBERT_FLOAT32
         : std::is_same_v<T, bool> ? POCKETBERT_BOOL
         : sizeof(T) == 8          ? POCKETBERT_INT64
                                   : POCKETBERT_INT32;
}

template <class Container, class... Dimensions>
pocketbert_tensor tensor(Container &elements, Dimensions... dimensions) {
  using T = std::remove_cv_t<std::remove_pointer_t<decltype(std::data(elements))>>;
  static_assert(sizeof...(dimensions) <= 4, "a tensor has at most four dimensions");
  const std::int64_t count = (static_cast<std::int64_t>(dimensions) * ... * 1);
  if (count != static_cast<std::int64_t>(std::size(elements)))
    throw Error(POCKETBERT_ERROR_SHAPE, std::to_string(std::size(elements)) + " elements do not have a shape of " +
                                            std::to_string(count) + ": correct one of them");
  return {const_cast<T *>(std::data(elements)),
          element_type<T>(),
          static_cast<std::int32_t>(sizeof...(dimensions)),
          {static_cast<std::int64_t>(dimensions)...}};
}

inline std::size_t bytes(const pocketbert_tensor &tensor) {
  std::size_t count = tensor.type == POCKETBERT_INT64 ? 8 : tensor.type == POCKETBERT_BOOL ? 1 : 4;
  for (std::int32_t i = 0; i < tensor.rank; i++) count *= static_cast<std::size_t>(tensor.shape[i]);
  return count;
}

}  // namespace detail

/* A view of elements (a vector, an array, a Span) with a shape: input(ids, 1, n). */
template <class Container, class... Dimensions>
pocketbert_tensor input(const Container &elements, Dimensions... dimensions) {
  return detail::tensor(elements, dimensions...);
}

/* The same of elements that a run may write to. */
template <class Container, class... Dimensions>
pocketbert_tensor output(Container &&elements, Dimensions... dimensions) {
  static_assert(!std::is_const_v<std::remove_reference_t<decltype(*std::data(elements))>>, "an output is written to");
  return detail::tensor(elements, dimensions...);
}

/* A model's library loaded while the program runs. Its models must be gone before it is. */
class Library {
 public:
  static Library from_path(const std::string &path, const std::string &name) {
    return Library([&](pocketbert_library *l) { return pocketbert_load_path(l, path.c_str(), name.c_str()); });
  }
  static Library from_file(int file, std::int64_t offset, std::int64_t bytes, const std::string &name) {
    return Library([&](pocketbert_library *l) { return pocketbert_load_file(l, file, offset, bytes, name.c_str()); });
  }
  static Library from_memory(const void *data, std::size_t bytes, const std::string &name) {
    return Library([&](pocketbert_library *l) { return pocketbert_load_memory(l, data, bytes, name.c_str()); });
  }
  Library(Library &&other) noexcept : library_(std::exchange(other.library_, {nullptr, nullptr, -1, {}})) {}
  Library &operator=(Library &&other) noexcept {
    std::swap(library_, other.library_);
    return *this;
  }
  ~Library() { pocketbert_unload(&library_); }

  const pocketbert_functions *functions() const noexcept { return library_.functions; }

 private:
  template <class Load>
  explicit Library(Load load) {
    if (const std::int32_t status = load(&library_); status != POCKETBERT_OK) throw Error(status, library_.error);
  }

  pocketbert_library library_;
};

/* The same with the shape that the model describes: that of the longest sequence. */
template <class Container>
pocketbert_tensor output(Container &&elements, const pocketbert_info &info) {
  pocketbert_tensor tensor = output(std::forward<Container>(elements), std::size(elements));
  if (detail::bytes(tensor) != info.bytes)
    throw Error(POCKETBERT_ERROR_SHAPE, std::string(info.name) + " has " + std::to_string(info.bytes) +
                                            " bytes, its buffer " + std::to_string(detail::bytes(tensor)));
  tensor.rank = info.rank;
  std::copy(std::begin(info.shape), std::end(info.shape), std::begin(tensor.shape));
  return tensor;
}

/* pocketbert_options says what they mean. */
struct Options {
  std::int32_t threads = 0;
  std::uint64_t cores = 0;
  bool profile = false;
  const volatile std::int32_t *cancel = nullptr;
  void (*log)(void *user, const char *message) = nullptr;
  void *user = nullptr;
};

/* pocketbert_task_options says what they mean. Labels are named here. */
enum class LongText : std::int32_t {
  refuse = POCKETBERT_REFUSE,
  truncate = POCKETBERT_TRUNCATE,
  windows = POCKETBERT_WINDOWS
};
struct TaskOptions {
  LongText long_text = LongText::refuse;
  std::int32_t max_tokens = 0;
  std::int32_t stride = 0;
  std::int32_t longest = 0;
  bool no_answer = false;
  float threshold = 0;
  std::int32_t top = 0; /* labels at most; 0: all */
  std::optional<std::vector<std::string_view>> allow = {};
  std::vector<std::string_view> deny = {};
};

/* A text, or a pair. */
struct Text {
  std::string_view text;
  std::optional<std::string_view> pair = {};
  Text(std::string_view first, std::optional<std::string_view> second = {}) : text(first), pair(second) {}
  Text(const std::string &first) : text(first) {}
  Text(const char *first) : text(first) {}
};

/* A stretch of a context that answers a question: `text` lies in the context; it is empty where there is no answer. */
struct Answer {
  std::string_view text;
  float score;
  std::int64_t begin, end; /* bytes in the context */
};

/* A text as the model's tokenizer cuts it, special pieces around it: pocketbert_tokens says what the members are. */
struct Tokens {
  std::vector<std::int64_t> ids, segments;
  std::vector<std::int8_t> texts;
  std::vector<std::int64_t> begins, ends;
  std::vector<std::int32_t> words;
  std::int32_t overflow = 0;
};

/* A label, or a piece for a mask, and how probable it is. */
struct Label {
  std::string_view name;
  float score;
};

/* An open model. Its library must stay loaded until it is gone. */
class Model {
 public:
  explicit Model(const pocketbert_functions *functions, const Options &options = {}) : functions_(functions) {
    if (functions->abi_version != POCKETBERT_ABI)
      throw Error(POCKETBERT_ERROR_LIBRARY, "the library was built for another POCKETBERT_ABI than this program");
    pocketbert_options given{};
    given.size = sizeof given;
    given.threads = options.threads;
    given.cores = options.cores;
    given.profile = options.profile;
    given.cancel = options.cancel;
    given.log = options.log;
    given.user = options.user;
    if (const std::int32_t status = functions->open(&given, &model_); status != POCKETBERT_OK)
      throw Error(status, functions->last_error(nullptr));
    description_.size = sizeof description_;
    functions->describe(&description_);
  }
  Model(Model &&other) noexcept
      : functions_(other.functions_), model_(std::exchange(other.model_, nullptr)), description_(other.description_) {}
  Model &operator=(Model &&other) noexcept {
    std::swap(functions_, other.functions_);
    std::swap(model_, other.model_);
    std::swap(description_, other.description_);
    return *this;
  }
  ~Model() { functions_->close(model_); }

  /* The longest sequence, and the memory that the model needs: pocketbert_description. */
  const pocketbert_description &description() const noexcept { return description_; }
  Span<const pocketbert_info> inputs() const noexcept {
    return {description_.inputs, static_cast<std::size_t>(description_.input_count)};
  }
  Span<const pocketbert_info> outputs() const noexcept {
    return {description_.outputs, static_cast<std::size_t>(description_.output_count)};
  }

  /* One inference, tensors in the order of inputs() and outputs(). Throws Error, and then has written nothing. */
  void run(Span<const pocketbert_tensor> inputs, Span<const pocketbert_tensor> outputs) {
    check(functions_->run(model_, inputs.data(), static_cast<std::int32_t>(inputs.size()), outputs.data(),
                          static_cast<std::int32_t>(outputs.size())));
  }

  /* Cut after max_tokens, by default as many as the model takes. Needs a library that was built with --vocab. */
  Tokens tokenize(std::string_view text, std::optional<std::string_view> pair = {}, std::int32_t max_tokens = 0) const {
    if (max_tokens == 0) max_tokens = description_.text_tokens;
    return encode(text, pair, max_tokens, false, 0);
  }

  /* A window of at most max_tokens (by default as many as the model takes): it begins after `skip` tokens of the last text.
   * For windows that share `stride` tokens, add to `skip` what the window has of that text, less `stride`, until `overflow`
   * is 0. */
  Tokens window(std::string_view text, std::optional<std::string_view> pair, std::int32_t skip,
                std::int32_t max_tokens = 0) const {
    return encode(text, pair, max_tokens == 0 ? description_.text_tokens : max_tokens, true, skip);
  }

  /* The most probable labels of a text, or of a pair, best first. *overflow receives how many tokens are beyond those that
   * are read at once: without options that say what becomes of them, Error is thrown. */
  std::vector<Label> classify(std::string_view text, std::optional<std::string_view> pair = {},
                              const TaskOptions &options = {}, std::int32_t *overflow = nullptr) {
    const Given given(*this, options);
    std::vector<pocketbert_label> found(room(options));
    std::int32_t count = 0;
    const auto [second, second_size] = pointer(pair);
    check(functions_->classify(model_, pointer(text).first, text.size(), second, second_size, &given.options,
                               found.data(), static_cast<std::int32_t>(found.size()), &count, overflow));
    found.resize(static_cast<std::size_t>(count));
    return named(found.data(), found.size());
  }

  /* The same of many texts, with several at once on threads. */
  std::vector<std::vector<Label>> classify_all(Span<const Text> texts, const TaskOptions &options = {}) {
    const Given given(*this, options);
    const std::size_t each = room(options);
    std::vector<pocketbert_label> found(each * texts.size());
    const std::vector<pocketbert_text> all = views(texts);
    check(functions_->classify_all(model_, all.data(), static_cast<std::int32_t>(all.size()), &given.options,
                                   found.data(), static_cast<std::int32_t>(each), nullptr));
    std::vector<std::vector<Label>> result;
    for (std::size_t i = 0; i < texts.size(); i++) result.push_back(named(found.data() + i * each, each));
    return result;
  }

  /* A text as a vector. */
  std::vector<float> embed(std::string_view text, const TaskOptions &options = {}, std::int32_t *overflow = nullptr) {
    const Given given(*this, options);
    std::vector<float> vector(static_cast<std::size_t>(description_.vector));
    check(functions_->embed(model_, pointer(text).first, text.size(), &given.options, vector.data(),
                            description_.vector, overflow));
    return vector;
  }

  /* The vectors of many texts, one after the other, with several at once on threads. */
  std::vector<float> embed_all(Span<const Text> texts, const TaskOptions &options = {}) {
    const Given given(*this, options);
    std::vector<float> vectors(texts.size() * static_cast<std::size_t>(description_.vector));
    const std::vector<pocketbert_text> all = views(texts);
    check(functions_->embed_all(model_, all.data(), static_cast<std::int32_t>(all.size()), &given.options,
                                vectors.data(), description_.vector, nullptr));
    return vectors;
  }

  /* A vector in fewer bytes: in steps of a 127th of its largest element's size, or a bit an element. */
  std::vector<std::int8_t> to_int8(Span<const float> vector) const {
    std::vector<std::int8_t> result(vector.size());
    convert(vector, POCKETBERT_INT8, result.data());
    return result;
  }
  std::vector<std::uint8_t> to_bits(Span<const float> vector) const {
    std::vector<std::uint8_t> result((vector.size() + 7) / 8);
    convert(vector, POCKETBERT_BITS, result.data());
    return result;
  }

  /* How alike two vectors are, from -1 to 1. */
  float cosine(Span<const float> a, Span<const float> b) const { return cosine_of(a, b, a.size(), POCKETBERT_FLOAT32); }
  float cosine(Span<const std::int8_t> a, Span<const std::int8_t> b) const {
    return cosine_of(a, b, a.size(), POCKETBERT_INT8);
  }
  float cosine(Span<const std::uint8_t> a, Span<const std::uint8_t> b) const {
    return cosine_of(a, b, std::min(8 * a.size(), static_cast<std::size_t>(description_.vector)), POCKETBERT_BITS);
  }

  /* What is named in a text, with places in bytes. */
  std::vector<pocketbert_entity> entities(std::string_view text, const TaskOptions &options = {},
                                          std::int32_t *overflow = nullptr) {
    const Given given(*this, options);
    std::int32_t count = std::max(description_.text_tokens, 1);
    if (options.long_text == LongText::windows)
      count = static_cast<std::int32_t>(std::clamp<std::size_t>(text.size(), 1, INT32_MAX)); /* a token has a byte */
    std::vector<pocketbert_entity> found(static_cast<std::size_t>(count));
    check(functions_->entities(model_, pointer(text).first, text.size(), &given.options, found.data(), count, &count,
                               overflow));
    found.resize(std::min(found.size(), static_cast<std::size_t>(count)));
    return found;
  }

  /* For each mask in a text the most probable pieces, best first. */
  std::vector<std::vector<Label>> fill(std::string_view text, std::int32_t top = 5, const TaskOptions &options = {},
                                       std::int32_t *overflow = nullptr) {
    const Given given(*this, options);
    const std::size_t each = static_cast<std::size_t>(std::clamp(top, 1, std::max(description_.pieces, 1)));
    std::vector<pocketbert_label> found(each * static_cast<std::size_t>(std::max(description_.text_tokens, 1)));
    std::int32_t masks = 0;
    for (;;) {
      check(functions_->fill(model_, pointer(text).first, text.size(), &given.options, found.data(),
                             static_cast<std::int32_t>(each), static_cast<std::int32_t>(found.size()), &masks,
                             overflow));
      if (each * static_cast<std::size_t>(masks) <= found.size()) break;
      found.resize(each * static_cast<std::size_t>(masks));
    }
    std::vector<std::vector<Label>> pieces(static_cast<std::size_t>(masks));
    for (std::size_t i = 0; i < pieces.size(); i++)
      for (std::size_t k = 0; k < each && found[i * each + k].label >= 0; k++)
        pieces[i].push_back({token(found[i * each + k].label), found[i * each + k].score});
    return pieces;
  }

  /* The best answers to a question that stand in a context of any length, best first. */
  std::vector<Answer> answer(std::string_view question, std::string_view context, std::int32_t top = 1,
                             const TaskOptions &options = {}) {
    const Given given(*this, options);
    std::vector<pocketbert_answer> found(static_cast<std::size_t>(std::max(top, 1)));
    std::int32_t count = 0;
    check(functions_->answer(model_, pointer(question).first, question.size(), pointer(context).first, context.size(),
                             &given.options, found.data(), static_cast<std::int32_t>(found.size()), &count));
    std::vector<Answer> answers;
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); i++)
      answers.push_back({context.substr(static_cast<std::size_t>(found[i].begin),
                                        static_cast<std::size_t>(found[i].end - found[i].begin)),
                         found[i].score, found[i].begin, found[i].end});
    return answers;
  }

  /* The piece with this id; empty where there is none. */
  std::string_view token(std::int64_t id) const noexcept {
    const bool known = id >= 0 && id < description_.pieces;
    return known ? functions_->token(static_cast<std::int32_t>(id)) : std::string_view();
  }

  /* Tokenize and run; returns the number of tokens. Outputs have room for the longest sequence, and their shapes are set
   * to that of this one. */
  std::int32_t run_text(std::string_view text, Span<pocketbert_tensor> outputs,
                        std::optional<std::string_view> pair = {}) {
    for (std::size_t i = 0; i < outputs.size() && i < this->outputs().size(); i++)
      if (detail::bytes(outputs[i]) < this->outputs()[i].bytes)
        throw Error(POCKETBERT_ERROR_SHAPE, std::string("run_text: no room for the longest sequence in output ") +
                                                this->outputs()[i].name);
    std::int32_t count = 0;
    const auto [second, second_size] = pointer(pair);
    check(functions_->run_text(model_, pointer(text).first, text.size(), second, second_size, outputs.data(),
                               static_cast<std::int32_t>(outputs.size()), &count));
    return count;
  }

  /* When each kernel of the last run ran, where Options::profile was set. */
  Span<const pocketbert_record> profile() const {
    const pocketbert_record *records = nullptr;
    std::int32_t count = 0;
    check(functions_->profile(model_, &records, &count));
    return {records, static_cast<std::size_t>(count)};
  }

 private:
  /* Options as C takes them; the labels' numbers live as long as this. */
  struct Given {
    Given(const Model &model, const TaskOptions &from) : deny(model.numbers(from.deny)) {
      if (from.allow) allow = model.numbers(*from.allow);
      options.size = sizeof options;
      options.long_text = static_cast<std::int32_t>(from.long_text);
      options.max_tokens = from.max_tokens;
      options.stride = from.stride;
      options.longest = from.longest;
      options.no_answer = from.no_answer;
      options.threshold = from.threshold;
      options.allow_count = static_cast<std::int32_t>(allow.size());
      allow.push_back(0); /* so that there is an address of none, too */
      options.allow = from.allow ? allow.data() : nullptr;
      options.deny = deny.data();
      options.deny_count = static_cast<std::int32_t>(deny.size());
    }
    Given(const Given &) = delete;
    Given &operator=(const Given &) = delete;
    std::vector<std::int32_t> allow, deny;
    pocketbert_task_options options{};
  };

  std::vector<std::int32_t> numbers(const std::vector<std::string_view> &names) const {
    std::vector<std::int32_t> result;
    for (const std::string_view name : names) {
      std::int32_t number = 0;
      while (number < description_.labels && functions_->label(number) != name) number++;
      if (number == description_.labels)
        throw Error(POCKETBERT_ERROR_ARGUMENT, "the model has no label " + std::string(name));
      result.push_back(number);
    }
    return result;
  }

  std::size_t room(const TaskOptions &options) const {
    const std::int32_t all = std::max(description_.labels, 1);
    return static_cast<std::size_t>(options.top > 0 ? std::min(options.top, all) : all);
  }

  std::vector<Label> named(const pocketbert_label *found, std::size_t count) const {
    std::vector<Label> labels;
    for (std::size_t i = 0; i < count && found[i].label >= 0; i++)
      labels.push_back({functions_->label(found[i].label), found[i].score});
    return labels;
  }

  static std::vector<pocketbert_text> views(Span<const Text> texts) {
    std::vector<pocketbert_text> result;
    for (const Text &each : texts) {
      const auto [second, second_size] = pointer(each.pair);
      result.push_back({pointer(each.text).first, each.text.size(), second, second_size});
    }
    return result;
  }

  void convert(Span<const float> vector, std::int32_t type, void *result) const {
    if (functions_->convert(vector.data(), static_cast<std::int32_t>(vector.size()), type, result) != POCKETBERT_OK)
      throw Error(POCKETBERT_ERROR_ARGUMENT, functions_->last_error(nullptr));
  }

  template <class T>
  float cosine_of(Span<const T> a, Span<const T> b, std::size_t size, std::int32_t type) const {
    if (a.size() != b.size())
      throw Error(POCKETBERT_ERROR_ARGUMENT, "vectors have " + std::to_string(a.size()) + " and " +
                                                 std::to_string(b.size()) + " elements: give two of one model");
    return functions_->cosine(a.data(), b.data(), static_cast<std::int32_t>(size), type);
  }

  Tokens encode(std::string_view text, std::optional<std::string_view> pair, std::int32_t max_tokens, bool windows,
                std::int32_t skip) const {
    const std::size_t room = max_tokens > 0 ? static_cast<std::size_t>(max_tokens) : 0;
    Tokens tokens{std::vector<std::int64_t>(room + 1), std::vector<std::int64_t>(room + 1),
                  std::vector<std::int8_t>(room + 1),  std::vector<std::int64_t>(room + 1),
                  std::vector<std::int64_t>(room + 1), std::vector<std::int32_t>(room + 1), 0};
    pocketbert_tokens given{};
    given.size = sizeof given;
    given.max_tokens = max_tokens;
    given.windows = windows;
    given.skip = skip;
    given.ids = tokens.ids.data();
    given.segments = tokens.segments.data();
    given.texts = tokens.texts.data();
    given.begins = tokens.begins.data();
    given.ends = tokens.ends.data();
    given.words = tokens.words.data();
    const auto [second, second_size] = pointer(pair);
    const std::int32_t status = functions_->encode(pointer(text).first, text.size(), second, second_size, &given);
    if (status != POCKETBERT_OK) throw Error(status, functions_->last_error(nullptr));
    const std::size_t count = static_cast<std::size_t>(given.count);
    for (std::vector<std::int64_t> *each : {&tokens.ids, &tokens.segments, &tokens.begins, &tokens.ends})
      each->resize(count);
    tokens.texts.resize(count);
    tokens.words.resize(count);
    tokens.overflow = given.overflow;
    return tokens;
  }

  void check(std::int32_t status) const {
    if (status != POCKETBERT_OK) throw Error(status, functions_->last_error(model_));
  }

  /* C tells no text from an empty one by NULL; an empty string_view may be either. */
  static std::pair<const char *, std::size_t> pointer(std::optional<std::string_view> text) noexcept {
    if (!text) return {nullptr, 0};
    return {text->empty() ? "" : text->data(), text->size()};
  }

  const pocketbert_functions *functions_;
  pocketbert_model *model_ = nullptr;
  pocketbert_description description_{};
};

}  // namespace pocketbert

#endif
