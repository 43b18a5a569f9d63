#pragma once

// The coordinator's end of a worker's stream. A seam: the gRPC stream in coordinator/service, a
// fake worker in tests.

#include "absl/status/status.h"
#include "octavo/v1/cluster.pb.h"

namespace octavo {

class WorkerClient {
 public:
  virtual ~WorkerClient() = default;
  // Queues a directive. Never blocks and never calls back; a stream that is closed or too far
  // behind drops it (and ends).
  virtual void Send(const v1::Directive& directive) = 0;
  // Ends the stream. Never blocks and never calls back.
  virtual void Close(const absl::Status& why) = 0;
};

}  // namespace octavo
