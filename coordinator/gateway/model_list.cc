#include "coordinator/gateway/model_list.h"

#include "core/base/error.h"
#include "core/rpc/auth.h"
#include "core/rpc/status.h"
#include "octavo/v1/service/inference.grpc.pb.h"

namespace octavo {
namespace {

grpc::Status NotHere() {
  return ToGrpc(MakeError(Reason::kUnsupported, "a gateway neither loads nor unloads models", {},
                          "ask the coordinator"));
}

class ModelList final : public v1::Models::Service {
 public:
  ModelList(const ModelTable* models, const std::string& token) : models_(models), guard_(token) {}

  grpc::Status List(grpc::ServerContext* context, const v1::ListModelsRequest*,
                    v1::ListModelsResponse* response) override {
    if (grpc::Status refused = guard_.Check(*context); !refused.ok()) return refused;
    for (v1::ModelInfo& model : models_->List()) *response->add_models() = std::move(model);
    return grpc::Status::OK;
  }
  grpc::Status Load(grpc::ServerContext*, const v1::LoadModelRequest*,
                    grpc::ServerWriter<v1::ModelInfo>*) override {
    return NotHere();
  }
  grpc::Status Unload(grpc::ServerContext*, const v1::UnloadModelRequest*,
                      v1::UnloadModelResponse*) override {
    return NotHere();
  }

 private:
  const ModelTable* const models_;
  const CallGuard guard_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeModelList(const ModelTable* models, const std::string& token) {
  return std::make_unique<ModelList>(models, token);
}

}  // namespace octavo
