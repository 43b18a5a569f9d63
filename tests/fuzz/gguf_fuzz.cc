// Any bytes as a GGUF file: a typed error, or ranges inside the file that can be dequantized, a
// model, a tokenizer. A head that is cut anywhere asks for more instead of failing.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/gguf.h"
#include "core/checkpoint/gguf_config.h"
#include "core/checkpoint/gguf_tokenizer.h"

namespace {

void CheckReason(const absl::Status& status) {
  const octavo::Reason reason = octavo::ReasonOf(status);
  OCTAVO_CHECK(reason == octavo::Reason::kBadCheckpoint || reason == octavo::Reason::kUnsupported);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto parsed = octavo::ParseGguf(bytes, size, "f.gguf");
  if (!parsed.ok()) {
    CheckReason(parsed.status());
    return 0;
  }
  OCTAVO_CHECK(parsed->has_value());
  const octavo::GgufFile& file = **parsed;
  if (size > 0) {
    const auto cut = octavo::ParseGguf(bytes.substr(0, data[size - 1] % size), size, "f.gguf");
    OCTAVO_CHECK(cut.ok());
  }
  for (const octavo::GgufTensor& tensor : file.tensors) {
    OCTAVO_CHECK(tensor.begin <= tensor.end && tensor.end <= size);
    if (!octavo::CanDequantize(tensor.type)) continue;
    uint64_t elements = 1;
    for (int64_t dim : tensor.shape) elements *= static_cast<uint64_t>(dim);
    std::vector<float> values(elements);
    octavo::DequantizeRows(
        tensor.type,
        std::as_bytes(std::span(bytes.substr(tensor.begin, tensor.end - tensor.begin))), values);
  }
  const auto tokenizer = octavo::GgufTokenizer(file);
  if (!tokenizer.ok()) CheckReason(tokenizer.status());
  const auto spec = octavo::GgufModelSpec(file);
  if (!spec.ok()) {
    CheckReason(spec.status());
    return 0;
  }
  const auto sources = octavo::MatchGgufTensors(file, *spec);
  if (!sources.ok()) CheckReason(sources.status());
  return 0;
}
