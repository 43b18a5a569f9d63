// Any bytes as config.json, and after a NUL as generation_config.json: a typed error, or a model
// whose tensors can be listed and whose config, written again, gives the same model.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/hf_config.h"
#include "core/model/family.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t cut = input.find('\0');
  const std::string_view generation =
      cut == input.npos ? std::string_view() : input.substr(cut + 1);
  const auto spec = octavo::ParseConfig(input.substr(0, cut), generation);
  if (!spec.ok()) {
    const octavo::Reason reason = octavo::ReasonOf(spec.status());
    OCTAVO_CHECK(reason == octavo::Reason::kBadCheckpoint ||
                 reason == octavo::Reason::kUnsupported);
    return 0;
  }
  const auto tensors = octavo::ExpectedTensors(*spec);
  OCTAVO_CHECK(tensors.ok() && !tensors->empty());
  const auto again =
      octavo::ParseConfig(octavo::ConfigText(*spec), octavo::GenerationConfigText(*spec));
  OCTAVO_CHECK(again.ok());
  OCTAVO_CHECK(again->SerializeAsString() == spec->SerializeAsString());
  return 0;
}
