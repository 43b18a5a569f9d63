#pragma once

// Between octavo::DType and octavo.v1.DType (the same numbers).

#include "core/tensor/dtype.h"
#include "octavo/v1/types.pb.h"

namespace octavo {

inline DType FromProto(v1::DType dtype) { return static_cast<DType>(dtype); }
inline v1::DType ToProto(DType dtype) { return static_cast<v1::DType>(dtype); }

}  // namespace octavo
