// Any bytes as model.safetensors.index.json: a typed error, or a map of plain file names that
// survives being written.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/index.h"
#include "core/store/store.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto index = octavo::ParseIndex(text, "i.json");
  if (!index.ok()) {
    OCTAVO_CHECK(octavo::ReasonOf(index.status()) == octavo::Reason::kBadCheckpoint);
    return 0;
  }
  OCTAVO_CHECK(!index->weight_map.empty());
  for (const auto& [tensor, file] : index->weight_map) {
    OCTAVO_CHECK(octavo::IsPlainFileName(file));
  }
  const auto again = octavo::ParseIndex(octavo::BuildIndex(*index), "again.json");
  OCTAVO_CHECK(again.ok());
  OCTAVO_CHECK(again->weight_map == index->weight_map && again->total_size == index->total_size);
  return 0;
}
