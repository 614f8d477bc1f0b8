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
};

/* A text as the model's tokenizer cuts it, special pieces around it: pocketbert_tokens says what the members are. */
struct Tokens {
  std::vector<std::int64_t> ids, segments;
  std::vector<std::int8_t> texts;
  std::vector<std::int64_t> begins, ends;
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

  /* The most probable labels of a text, or of a pair, best first. *overflow receives how many tokens were cut off. */
  std::vector<Label> classify(std::string_view text, std::optional<std::string_view> pair = {},
                              std::int32_t *overflow = nullptr) {
    std::vector<pocketbert_label> found(static_cast<std::size_t>(std::max(description_.labels, 1)));
    std::int32_t count = 0;
    const auto [second, second_size] = pointer(pair);
    check(functions_->classify(model_, pointer(text).first, text.size(), second, second_size, found.data(),
                               static_cast<std::int32_t>(found.size()), &count, overflow));
    std::vector<Label> labels;
    for (std::int32_t i = 0; i < count; i++)
      labels.push_back({functions_->label(found[static_cast<std::size_t>(i)].label),
                        found[static_cast<std::size_t>(i)].score});
    return labels;
  }

  /* A text as a vector. */
  std::vector<float> embed(std::string_view text, std::int32_t *overflow = nullptr) {
    std::vector<float> vector(static_cast<std::size_t>(description_.vector));
    check(functions_->embed(model_, pointer(text).first, text.size(), vector.data(), description_.vector, overflow));
    return vector;
  }

  /* What is named in a text, with places in bytes. */
  std::vector<pocketbert_entity> entities(std::string_view text, std::int32_t *overflow = nullptr) {
    std::vector<pocketbert_entity> found(static_cast<std::size_t>(std::max(description_.text_tokens, 1)));
    std::int32_t count = 0;
    check(functions_->entities(model_, pointer(text).first, text.size(), found.data(),
                               static_cast<std::int32_t>(found.size()), &count, overflow));
    found.resize(static_cast<std::size_t>(count)); /* there are no more than tokens */
    return found;
  }

  /* For each mask in a text the most probable pieces, best first. */
  std::vector<std::vector<Label>> fill(std::string_view text, std::int32_t top = 5, std::int32_t *overflow = nullptr) {
    const std::size_t each = static_cast<std::size_t>(std::clamp(top, 1, std::max(description_.pieces, 1)));
    std::vector<pocketbert_label> found(each * static_cast<std::size_t>(std::max(description_.text_tokens, 1)));
    std::int32_t masks = 0;
    check(functions_->fill(model_, pointer(text).first, text.size(), found.data(), static_cast<std::int32_t>(each),
                           static_cast<std::int32_t>(found.size()), &masks, overflow));
    std::vector<std::vector<Label>> pieces(static_cast<std::size_t>(masks));
    for (std::size_t i = 0; i < pieces.size(); i++)
      for (std::size_t k = 0; k < each && found[i * each + k].label >= 0; k++)
        pieces[i].push_back({token(found[i * each + k].label), found[i * each + k].score});
    return pieces;
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
  Tokens encode(std::string_view text, std::optional<std::string_view> pair, std::int32_t max_tokens, bool windows,
                std::int32_t skip) const {
    const std::size_t room = max_tokens > 0 ? static_cast<std::size_t>(max_tokens) : 0;
    Tokens tokens{std::vector<std::int64_t>(room + 1), std::vector<std::int64_t>(room + 1),
                  std::vector<std::int8_t>(room + 1),  std::vector<std::int64_t>(room + 1),
                  std::vector<std::int64_t>(room + 1), 0};
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
    const auto [second, second_size] = pointer(pair);
    const std::int32_t status = functions_->encode(pointer(text).first, text.size(), second, second_size, &given);
    if (status != POCKETBERT_OK) throw Error(status, functions_->last_error(nullptr));
    const std::size_t count = static_cast<std::size_t>(given.count);
    for (std::vector<std::int64_t> *each : {&tokens.ids, &tokens.segments, &tokens.begins, &tokens.ends})
      each->resize(count);
    tokens.texts.resize(count);
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
