#include "core/rpc/reflection.h"

#include <deque>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "compat/reflection_v1.grpc.pb.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/impl/server_initializer.h"
#include "grpcpp/server_builder.h"

namespace octavo {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::FileDescriptor;
namespace v1 = grpc::reflection::v1;

class Reflection final : public v1::ServerReflection::Service {
 public:
  explicit Reflection(std::shared_ptr<const ServiceNames> names) : names_(std::move(names)) {}

  grpc::Status ServerReflectionInfo(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::ServerReflectionResponse, v1::ServerReflectionRequest>* stream)
      override {
    v1::ServerReflectionRequest request;
    while (stream->Read(&request)) {
      v1::ServerReflectionResponse response;
      response.set_valid_host(request.host());
      *response.mutable_original_request() = request;
      Answer(request, response);
      if (!stream->Write(response)) break;
    }
    return grpc::Status::OK;
  }

 private:
  void Answer(const v1::ServerReflectionRequest& request, v1::ServerReflectionResponse& response) {
    const DescriptorPool* pool = DescriptorPool::generated_pool();
    switch (request.message_request_case()) {
      case v1::ServerReflectionRequest::kListServices:
        for (const std::string& name : *names_) {
          response.mutable_list_services_response()->add_service()->set_name(name);
        }
        return;
      case v1::ServerReflectionRequest::kFileByFilename:
        return AddFile(pool->FindFileByName(request.file_by_filename()), response);
      case v1::ServerReflectionRequest::kFileContainingSymbol:
        return AddFile(pool->FindFileContainingSymbol(request.file_containing_symbol()), response);
      default:  // proto3 has no extensions
        return Refuse(grpc::StatusCode::NOT_FOUND, "no extensions here", response);
    }
  }

  static void Refuse(grpc::StatusCode code, const char* why,
                     v1::ServerReflectionResponse& response) {
    response.mutable_error_response()->set_error_code(code);
    response.mutable_error_response()->set_error_message(why);
  }

  // The file and everything it imports, each once.
  static void AddFile(const FileDescriptor* file, v1::ServerReflectionResponse& response) {
    if (file == nullptr) {
      return Refuse(grpc::StatusCode::NOT_FOUND, "no such file or symbol", response);
    }
    std::set<const FileDescriptor*> seen{file};
    std::deque<const FileDescriptor*> queue{file};
    while (!queue.empty()) {
      const FileDescriptor* next = queue.front();
      queue.pop_front();
      google::protobuf::FileDescriptorProto proto;
      next->CopyTo(&proto);
      response.mutable_file_descriptor_response()->add_file_descriptor_proto(
          proto.SerializeAsString());
      for (int i = 0; i < next->dependency_count(); ++i) {
        if (seen.insert(next->dependency(i)).second) queue.push_back(next->dependency(i));
      }
    }
  }

  const std::shared_ptr<const ServiceNames> names_;
};

// Knows the names of all services only when the builder finishes.
class ReflectionPlugin final : public grpc::ServerBuilderPlugin {
 public:
  explicit ReflectionPlugin(std::shared_ptr<ServiceNames> names)
      : service_(std::make_shared<Reflection>(names)), names_(std::move(names)) {}
  std::string name() override { return "octavo.reflection_v1"; }
  void InitServer(grpc::ServerInitializer* server) override { server->RegisterService(service_); }
  void Finish(grpc::ServerInitializer* server) override { *names_ = *server->GetServiceList(); }
  void ChangeArguments(const std::string&, void*) override {}
  bool has_sync_methods() const override { return true; }

 private:
  std::shared_ptr<Reflection> service_;
  std::shared_ptr<ServiceNames> names_;
};

class ReflectionOption final : public grpc::ServerBuilderOption {
 public:
  explicit ReflectionOption(std::shared_ptr<ServiceNames> names) : names_(std::move(names)) {}
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    plugins->push_back(std::make_unique<ReflectionPlugin>(names_));
  }

 private:
  std::shared_ptr<ServiceNames> names_;
};

}  // namespace

std::shared_ptr<const ServiceNames> AddReflection(grpc::ServerBuilder& builder) {
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();  // v1alpha; once per process
  auto names = std::make_shared<ServiceNames>();
  builder.SetOption(std::make_unique<ReflectionOption>(names));
  return names;
}

}  // namespace octavo
