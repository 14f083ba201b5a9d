typedef int clmla_stub_to_be_written;
