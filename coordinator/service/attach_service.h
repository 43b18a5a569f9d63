#pragma once

// Coordinator.Attach: one thread reads a worker's reports into Control, one writes its directives.

#include <atomic>
#include <string>

#include "core/rpc/auth.h"
#include "octavo/v1/service/coordinator.grpc.pb.h"

namespace octavo {

class Control;

class AttachService final : public v1::Coordinator::Service {
 public:
  AttachService(Control* control, const CallGuard* guard) : control_(control), guard_(guard) {}

  using Stream = grpc::ServerReaderWriter<v1::Directive, v1::Report>;
  grpc::Status Attach(grpc::ServerContext* context, Stream* stream) override;

  void Stop() { stopping_ = true; }

 private:
  Control* const control_;
  const CallGuard* const guard_;
  std::atomic<bool> stopping_{false};
};

}  // namespace octavo
