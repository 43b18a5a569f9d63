// Any bytes as a calibration file: reading it must end in samples or a typed error, the same for
// any number of threads. The first byte chooses name, packing and seed, the second the sample
// length.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/text/calibration_text.h"

namespace {

// Bytes as tokens, two of them merged, and a token beyond the vocabulary that the model has.
constexpr std::string_view kTokenizer = R"({
  "added_tokens": [
    {"id": 6, "content": "<s>", "special": true, "single_word": false, "lstrip": false,
     "rstrip": false, "normalized": false},
    {"id": 7, "content": "<alien>", "special": true, "single_word": false, "lstrip": false,
     "rstrip": false, "normalized": false}],
  "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                    "use_regex": true},
  "post_processor": null,
  "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "unk_token": null, "vocab":
    {"a": 0, "b": 1, "\u0120": 2, "\u010a": 3, "ab": 4, "u": 5}, "merges": ["a b"]}})";
constexpr std::string_view kConfig =
    R"({"chat_template": "{% for m in messages %}<s>{{ m.role }} {{ m.content }}{% endfor %}"})";
constexpr int64_t kVocabulary = 7;

constexpr std::string_view kNames[] = {"a.txt", "a.jsonl", "a"};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const octavo::TextBundle bundle = [] {
    auto loaded =
        octavo::LoadTextBundle({.tokenizer_json = kTokenizer, .tokenizer_config_json = kConfig});
    OCTAVO_CHECK(loaded.ok() && loaded->chat_template);
    return *std::move(loaded);
  }();
  if (size < 2) return 0;
  octavo::CalibrationOptions options;
  options.samples = 5;
  options.sample_length = 1 + data[1];
  if (data[0] & 4) options.seed = data[0];
  if (data[0] & 8) options.packing = octavo::CalibrationPacking::kEach;
  if (data[0] & 16) options.packing = octavo::CalibrationPacking::kPack;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  const auto file = octavo::OpenCalibrationFile(bytes, kNames[data[0] % 3]);
  if (!file.ok()) {
    OCTAVO_CHECK(octavo::ReasonOf(file.status()) == octavo::Reason::kBadData);
    return 0;
  }
  const auto once = octavo::CalibrationFromFile(*file, &bundle, kVocabulary, options);
  options.threads = 2;
  const auto again = octavo::CalibrationFromFile(*file, &bundle, kVocabulary, options);
  OCTAVO_CHECK(once.status() == again.status());
  if (!once.ok()) {
    const octavo::Reason reason = octavo::ReasonOf(once.status());
    OCTAVO_CHECK(reason == octavo::Reason::kBadData || reason == octavo::Reason::kBadCheckpoint);
    return 0;
  }
  OCTAVO_CHECK(once->ids == again->ids && once->lengths == again->lengths);
  OCTAVO_CHECK(!once->lengths.empty() && once->lengths.size() <= options.samples);
  size_t total = 0;
  for (const uint32_t length : once->lengths) {
    OCTAVO_CHECK(length >= 1 && length <= options.sample_length);
    total += length;
  }
  OCTAVO_CHECK(total == once->ids.size());
  for (const int32_t id : once->ids) OCTAVO_CHECK(id >= 0 && id < kVocabulary);
  return 0;
}
