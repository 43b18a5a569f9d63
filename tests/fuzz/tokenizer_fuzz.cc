// Any bytes as tokenizer.json: loading must end in a tokenizer or a typed error, and a tokenizer
// that loads must encode and decode without crashing. The input is the file, and after a line with
// only "---" a text to encode.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/base/status.h"
#include "core/text/detokenizer.h"
#include "core/text/text_bundle.h"
#include "core/text/utf8.h"

namespace {

constexpr std::string_view kSeparator = "\n---\n";
// Patterns of the file may be slow; that is bounded, and tested elsewhere.
constexpr size_t kTextBytesMax = 256;

void EncodeAndDecode(const octavo::Tokenizer& tokenizer, std::string_view text) {
  for (const bool special : {false, true}) {
    const auto ids =
        tokenizer.Encode(text, {.add_special_tokens = special, .parse_special = special});
    if (!ids.ok()) continue;
    octavo::Detokenizer detokenizer(&tokenizer, special);
    std::string joined;
    for (const int32_t id : *ids) {
      OCTAVO_CHECK(id >= 0 && id < tokenizer.vocab_size());
      joined += detokenizer.Push(id);
    }
    joined += detokenizer.Finish();
    OCTAVO_CHECK(octavo::IsUtf8(joined));
    OCTAVO_CHECK(joined == tokenizer.Decode(*ids, special));
  }
}

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
  if (tokenizer.ok()) EncodeAndDecode(**tokenizer, text);
  return 0;
}
