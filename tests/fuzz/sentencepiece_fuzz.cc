// Any bytes as tokenizer.model: loading must end in a tokenizer or a typed error, and a tokenizer
// that loads must encode and decode without crashing. The first byte says how many of the bytes
// after it are a text to encode; the rest is the file.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/text/tokenizer.h"
#include "tests/fuzz/encode_and_decode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  if (input.empty()) return 0;
  const std::string_view text = input.substr(1, static_cast<unsigned char>(input[0]));
  input.remove_prefix(1 + text.size());
  const auto tokenizer = octavo::LoadSentencePieceTokenizer(input);
  if (tokenizer.ok()) {
    octavo::EncodeAndDecode(**tokenizer, text);
    octavo::EncodeAndDecode(**tokenizer, "  Hello  \u2581 <s>\u00e9\U0001f44d\u00a0\n ");
  }
  return 0;
}
