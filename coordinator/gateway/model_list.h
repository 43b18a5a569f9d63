#pragma once

// What a gateway of its own says of models: those that it knows. Loading is for the coordinator.

#include <memory>
#include <string>

#include "coordinator/router/model_table.h"

namespace grpc {
class Service;
}

namespace octavo {

// The Models service with List alone; Load and Unload are kUnsupported. `models` outlives it. Every
// call must carry `token` (empty: none).
std::unique_ptr<grpc::Service> MakeModelList(const ModelTable* models, const std::string& token);

}  // namespace octavo
