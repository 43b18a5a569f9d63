// Any bytes as a safetensors file: a typed error, or tensors that tile the data section exactly and
// whose header, built again, parses to the same tensors.

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/safetensors.h"
#include "core/tensor/dtype_proto.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using octavo::v1::TensorSpec;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto tensors = octavo::ParseHeader(bytes, size, "f.safetensors");
  if (!tensors.ok()) {
    const octavo::Reason reason = octavo::ReasonOf(tensors.status());
    OCTAVO_CHECK(reason == octavo::Reason::kBadCheckpoint ||
                 reason == octavo::Reason::kUnsupported);
    return 0;
  }
  const uint64_t begin = 8 + *octavo::HeaderLength(bytes, size, "f.safetensors");
  uint64_t at = begin;
  std::vector<octavo::NewTensor> fresh;
  for (const TensorSpec& tensor : *tensors) {
    OCTAVO_CHECK(tensor.begin() == at && tensor.end() >= at);
    at = tensor.end();
    fresh.push_back({tensor.name(),
                     octavo::FromProto(tensor.dtype()),
                     {tensor.shape().begin(), tensor.shape().end()}});
  }
  OCTAVO_CHECK(at == size);
  const octavo::BuiltHeader built = octavo::BuildHeader(fresh, "g.safetensors");
  const auto again = octavo::ParseHeader(built.bytes, built.file_size, "g.safetensors");
  OCTAVO_CHECK(again.ok() && again->size() == tensors->size());
  std::map<std::string, const TensorSpec*> by_name;
  for (const TensorSpec& tensor : *again) by_name[tensor.name()] = &tensor;
  for (const TensorSpec& tensor : *tensors) {
    const TensorSpec& twin = *by_name.at(tensor.name());
    OCTAVO_CHECK(twin.dtype() == tensor.dtype());
    OCTAVO_CHECK(twin.end() - twin.begin() == tensor.end() - tensor.begin());
  }
  return 0;
}
