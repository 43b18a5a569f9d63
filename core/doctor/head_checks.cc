#include "core/doctor/checks.h"
#include "core/tensor/dtype.h"
#include "core/tensor/dtype_proto.h"

namespace octavo {

void CheckCodedHead(const v1::ModelSpec& model, const TensorMap& tensors, const Announcement& said,
                    Findings* findings) {
  if (said.dialect != Dialect::kCompressedTensors || model.tied_embeddings()) return;
  const std::string module = "lm_head";
  const auto head = tensors.find(module + ".weight");
  if (head == tensors.end() || IsSourceFloat(FromProto(head->second->dtype()))) return;
  const Said* of_head = said.Of(module, true);
  if (of_head == nullptr || said.patterns) return;  // told elsewhere
  const auto add = [&](Symptom symptom, const char* what, const std::string& tensor,
                       const std::string& file, const std::string& key) {
    findings->push_back(
        {.symptom = symptom, .what = what, .file = file, .tensor = tensor, .key = key});
  };
  if (!said.by_module.contains(module)) {
    add(Symptom::kHeadUnnamed, "lm_head holds codes, and no group has its name among the targets",
        module, "config.json", "quantization_config.config_groups");
  }
  if (of_head->grid == Grid::kBlock) {
    add(Symptom::kHeadBlocks, "the scales of lm_head are of blocks", module, head->second->file(),
        "");
  }
}

}  // namespace octavo
