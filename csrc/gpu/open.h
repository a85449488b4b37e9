// How each backend makes its devices.
#pragma once

#include "gpu/device.h"

namespace sdcore::gpu {

std::unique_ptr<Device> open_cuda(int ordinal);
int cuda_device_count();  // 0 where there is no driver
std::unique_ptr<Device> open_emulated(std::string_view name, int architecture, size_t bytes);

}  // namespace sdcore::gpu
