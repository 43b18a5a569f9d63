#include "core/checkpoint/untied_head.h"

#include <algorithm>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/model/family.h"

namespace octavo {

absl::StatusOr<Checkpoint> WithHeadOfItsOwn(const Checkpoint& tied) {
  OCTAVO_CHECK(tied.model.tied_embeddings());
  Checkpoint own = tied;
  own.model.set_tied_embeddings(false);
  own.config["tie_word_embeddings"] = false;
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<ExpectedTensor> expected, ExpectedTensors(own.model));
  const auto named = std::find_if(expected.begin(), expected.end(), [](const ExpectedTensor& one) {
    return one.role == v1::LM_HEAD;
  });
  const auto embedding =
      std::find_if(tied.tensors.begin(), tied.tensors.end(),
                   [](const v1::ModelTensor& one) { return one.role() == v1::EMBEDDING; });
  OCTAVO_CHECK(named != expected.end() && embedding != tied.tensors.end());
  v1::ModelTensor head = *embedding;
  head.set_role(v1::LM_HEAD);
  head.mutable_spec()->set_name(named->name);
  std::erase_if(own.tensors, [&](const v1::ModelTensor& one) {
    return one.spec().name() == head.spec().name();
  });
  const auto place =
      std::find_if(own.tensors.begin(), own.tensors.end(),
                   [](const v1::ModelTensor& one) { return one.role() == v1::IGNORED; });
  own.tensors.insert(place, std::move(head));
  return own;
}

}  // namespace octavo
