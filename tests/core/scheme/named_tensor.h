#pragma once

// A tensor for tests of rules: what they look at, and no more.

#include <string>

#include "octavo/v1/model.pb.h"

namespace octavo {

inline v1::ModelTensor Tensor(const std::string& name, v1::TensorRole role, int layer) {
  v1::ModelTensor tensor;
  tensor.mutable_spec()->set_name(name);
  tensor.set_role(role);
  tensor.set_layer(layer);
  tensor.set_expert(-1);
  return tensor;
}

}  // namespace octavo
