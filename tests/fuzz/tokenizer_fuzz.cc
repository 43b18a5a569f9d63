// Any bytes as tokenizer.json: loading must end in a tokenizer or a typed error, and a tokenizer
// that loads must encode and decode without crashing. The input is the file, and after a line with
// only "---" a text to encode.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/base/status.h"
#include "core/text/text_bundle.h"
#include "tests/fuzz/encode_and_decode.h"

namespace {

constexpr std::string_view kSeparator = "\n---\n";
// Patterns of the file may be slow; that is bounded, and tested elsewhere.
constexpr size_t kTextBytesMax = 256;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t cut = input.find(kSeparator);
  octavo::TextFiles files;
  files.tokenizer_json = input.substr(0, cut);
  std::string_view text = "Hello, it's 12345 \n\n <|im_end|>\xe2\x82\xac";
  if (cut != input.npos) text = input.substr(cut + kSeparator.size()).substr(0, kTextBytesMax);
  // The same bytes as the other files: their readers must hold, too.
  files.tokenizer_config_json = files.tokenizer_json;
  const auto bundle = octavo::LoadTextBundle(files);
  const auto tokenizer = octavo::LoadTokenizer(files.tokenizer_json);
  if (bundle.ok()) OCTAVO_CHECK(tokenizer.ok() || bundle->tokenizer != nullptr);
  if (tokenizer.ok()) octavo::EncodeAndDecode(**tokenizer, text);
  return 0;
}
