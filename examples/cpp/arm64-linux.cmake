# Cross-compile for 64-bit Arm Linux with zig (pip install ziglang): -DCMAKE_TOOLCHAIN_FILE=examples/cpp/arm64-linux.cmake
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
find_program(PYTHON NAMES python python3 REQUIRED)
set(CMAKE_C_COMPILER ${PYTHON} -m ziglang cc -target aarch64-linux-gnu)
set(CMAKE_CXX_COMPILER ${PYTHON} -m ziglang c++ -target aarch64-linux-gnu)
